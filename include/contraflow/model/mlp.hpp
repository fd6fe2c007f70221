#pragma once

#include <cmath>
#include <concepts>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/cloneable.h>

#include <contraflow/core/random.hpp>
#include <contraflow/model/concept.hpp>
#include <contraflow/network/fourier.hpp>
#include <contraflow/network/linear.hpp>

namespace contraflow {

/// Shape of an MlpVelocity.
struct MlpOptions {
  std::int64_t dimension = 2;    ///< of a sample, at least 1
  std::int64_t width = 128;      ///< of the hidden layers, at least 1
  std::int64_t depth = 3;        ///< number of hidden layers, at least 1
  std::int64_t frequencies = 4;  ///< of the features of time, sin and cos each
  std::int64_t classes = 0;      ///< number of class labels; 0: unconditional
  std::uint64_t seed = 0;        ///< of the initial weights
};

/// The network behind MlpVelocity.
class MlpVelocityImpl : public torch::nn::Cloneable<MlpVelocityImpl> {
 public:
  /// @throws Error if an option is out of range
  explicit MlpVelocityImpl(const MlpOptions& options) : options_(options) {
    expects(options.dimension >= 1, "dimension", "at least 1", options.dimension);
    expects(options.width >= 1, "width", "at least 1", options.width);
    expects(options.depth >= 1, "depth", "at least 1", options.depth);
    expects(options.frequencies >= 1, "frequencies", "at least 1", options.frequencies);
    expects(options.classes >= 0, "classes", "at least 0", options.classes);
    reset();
  }

  /// Makes all parameters anew, from the seed of the options.
  void reset() override {
    Generator generator = seeded(options_.seed);
    layers_.clear();
    const std::int64_t features = 2 * options_.frequencies;
    add_layer("input", options_.dimension + features, options_.width, generator);
    for (std::int64_t i = 1; i < options_.depth; ++i) {
      add_layer("hidden" + std::to_string(i), options_.width, options_.width, generator);
    }
    add_layer("output", options_.width, options_.dimension, generator);
    gate_ = register_parameter("gate", at::zeros({1, features}));
    embedding_ = Tensor();
    if (options_.classes > 0) {
      embedding_ = register_parameter("embedding",
                                      normal({options_.classes, options_.width}, generator) * 0.5);
    }
    frequencies_ = register_buffer(
        "frequencies", at::pow(2.0, at::arange(options_.frequencies, at::kFloat)) * (M_PI / 2));
  }

  /// Velocity without a condition.
  Tensor forward(const Tensor& x_t, const Tensor& t) {
    expects(options_.classes == 0, "condition", "class labels, for a model that has classes",
            "nothing");
    return run(x_t, t, {});
  }

  /// Velocity under class labels, int64 [B] in [0, classes).
  Tensor forward(const Tensor& x_t, const Tensor& t, const Tensor& labels) {
    expects(options_.classes > 0, "condition", "nothing, for a model that has no classes",
            shape_text(labels));
    expects_per_sample(labels, x_t, "condition");
    expects_below(labels, options_.classes, "condition",
                  "class labels in [0, " + shown(options_.classes) + ")");
    return run(x_t, t, embedding_.index_select(0, labels));
  }

  /// [dimension].
  std::vector<std::int64_t> sample_shape() const { return {options_.dimension}; }

 private:
  void add_layer(const std::string& name, std::int64_t in, std::int64_t out, Generator& generator) {
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    const bool is_output = name == "output";
    const Tensor weight = (uniform({out, in}, generator) * 2 - 1) * (is_output ? 0.1 : 1.7) * bound;
    layers_.push_back({register_parameter(name + "_weight", weight),
                       register_parameter(name + "_bias", at::zeros({out}))});
  }

  Tensor run(const Tensor& x_t, const Tensor& t, const Tensor& embedded) {
    if (x_t.dim() != 2 || x_t.size(1) != options_.dimension) {
      throw Error("x_t", "shape [B, " + shown(options_.dimension) + "]", shape_text(x_t));
    }
    expects_dtype(x_t, gate_.scalar_type(), "x_t");
    expects_per_sample(t, x_t, "t");
    return mlp<kernels::Silu>(with_fourier_features(x_t, t, frequencies_), layers_,
                              {.added = embedded, .gate = gate_});
  }

  MlpOptions options_;
  std::vector<LinearWeights> layers_;
  Tensor gate_, embedding_, frequencies_;
};

/// A multilayer perceptron as velocity of small flows, conditional on a class label or not.
///
/// `v = f(x_t, time, class) + g(time) x_t` with SiLU layers and Fourier features of time. The
/// second term is the linear part of every Gaussian's velocity: with it the network need not spend
/// its width on copying x_t, which decides whether many dimensions can be learnt. Initial weights
/// are drawn from the seed in the options, not from a global generator.
/// @par Shape
/// x_t [B, dimension], t [B], labels int64 [B]; result [B, dimension]
class MlpVelocity : public torch::nn::ModuleHolder<MlpVelocityImpl> {
 public:
  using Impl = MlpVelocityImpl;  ///< the network
  /// @throws Error if an option is out of range
  MlpVelocity(const MlpOptions& options)  // NOLINT: a braced list of options is a model
      : ModuleHolder(std::make_shared<Impl>(options)) {}
  /// The holder of a network that exists.
  template <std::same_as<std::shared_ptr<MlpVelocityImpl>> Pointer>
  explicit MlpVelocity(Pointer network) : ModuleHolder(std::move(network)) {}

  /// The velocity without a condition.
  Tensor operator()(const Tensor& x_t, const Tensor& t) { return get()->forward(x_t, t); }
  /// The velocity under class labels.
  Tensor operator()(const Tensor& x_t, const Tensor& t, const Tensor& labels) {
    return get()->forward(x_t, t, labels);
  }
};

}  // namespace contraflow
