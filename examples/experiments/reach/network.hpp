#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include <torch/torch.h>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/reach.hpp>

/// The network: a torch module of the user's, conditional on a scene.
namespace reaching {

namespace cf = contraflow;
namespace reach = contraflow::toy::reach;
using cf::Tensor;

//! [network]
/// The velocity of a chunk of actions, given a scene.
struct ChunkVelocityImpl : torch::nn::Cloneable<ChunkVelocityImpl> {
  ChunkVelocityImpl(const reach::World& world, std::int64_t width) : world_(world), width_(width) {
    reset();
  }

  void reset() override {
    const std::int64_t numbers = world_.horizon * world_.joints;
    const std::int64_t features = 3 * (world_.joints - 1) + 2 + 3 * world_.obstacles;
    in_ = register_module("in", torch::nn::Linear(numbers + 8 + features, width_));
    middle_ = register_module("middle", torch::nn::Linear(width_, width_));
    last_ = register_module("last", torch::nn::Linear(width_, width_));
    out_ = register_module("out", torch::nn::Linear(width_, numbers));
    gate_ = register_module("gate", torch::nn::Linear(8, 1));
  }

  /// @param scenes the condition, a row a sample
  Tensor forward(const Tensor& x_t, const Tensor& t, const Tensor& scenes) {
    const Tensor x = x_t.flatten(1), time = waves(t);
    Tensor h = at::silu(in_(at::cat({x, time, seen_from_arm(scenes)}, 1)));
    h = h + at::silu(middle_(h));
    h = h + at::silu(last_(h));
    // With the linear part of every Gaussian's velocity the layers need not copy x_t.
    return (out_(h) + gate_(time) * x).view_as(x_t);
  }

  std::vector<std::int64_t> sample_shape() const { return {world_.horizon, world_.joints}; }

 private:
  static Tensor waves(const Tensor& t) {
    const Tensor phase = at::outer(t, at::pow(2, at::arange(4, at::kFloat)) * (M_PI / 2));
    return at::cat({phase.sin(), phase.cos()}, 1);
  }

  /// Everything as seen from the first link: who turns a whole scene gets the same actions.
  Tensor seen_from_arm(const Tensor& scenes) const {
    const auto column = [&](std::int64_t i) { return scenes.narrow(1, i, 1); };
    const Tensor cosine = column(0).cos(), sine = column(0).sin();
    const Tensor bends = scenes.narrow(1, 1, world_.joints - 1), directions = bends.cumsum(1);
    std::vector<Tensor> features{bends, directions.cos(), directions.sin()};
    const auto add_point = [&](std::int64_t i) {
      features.push_back(cosine * column(i) + sine * column(i + 1));
      features.push_back(cosine * column(i + 1) - sine * column(i));
    };
    add_point(world_.joints);
    for (std::int64_t i = world_.joints + 2; i < world_.scene_size(); i += 3) {
      add_point(i);
      features.push_back(column(i + 2));
    }
    return at::cat(features, 1);
  }

  reach::World world_;
  std::int64_t width_;
  torch::nn::Linear in_{nullptr}, middle_{nullptr}, last_{nullptr}, out_{nullptr}, gate_{nullptr};
};
TORCH_MODULE(ChunkVelocity);
static_assert(cf::TrainableModel<ChunkVelocity, Tensor>);
//! [network]

}  // namespace reaching
