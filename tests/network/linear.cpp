// Linear layers in float32 against the same in float64, with their gradients; when they are a
// kernel.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <catch2/catch_test_macros.hpp>
#include <torch/csrc/autograd/autograd.h>

#include <contraflow/model/mlp.hpp>
#include <contraflow/network/autocast.hpp>
#include <contraflow/network/layers.hpp>
#include <contraflow/network/weights.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
namespace kernels = cf::kernels;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;
using laws::same_bits;

namespace {

using Tensors = std::vector<Tensor>;

// x, what is added and the gate (both undefined unless asked for), and weights and biases in turn.
Tensors random_layers(at::IntArrayRef shape, const std::vector<std::int64_t>& sizes, bool adds) {
  auto first = shape.vec();
  first.back() = sizes[0];
  Tensors all{laws::floats(shape, 1), adds ? laws::floats(first, 2) : Tensor(),
              adds && sizes.back() <= shape.back() ? laws::floats({1, 3}, 8) : Tensor()};
  std::int64_t in = shape.back();
  for (const std::int64_t out : sizes) {
    all.push_back(laws::floats({out, in}, 3 + std::uint64_t(out)) / std::sqrt(double(in)));
    all.push_back(laws::floats({out}, 4));
    in = out;
  }
  return all;
}

template <class Activation>
Tensor applied(const Tensors& all) {
  std::vector<cf::LinearWeights> layers;
  for (std::size_t i = 3; i < all.size(); i += 2) layers.push_back({all[i], all[i + 1]});
  return cf::mlp<Activation>(all[0], layers, {.added = all[1], .gate = all[2]});
}

Tensors with_gradients(Tensors all) {
  for (Tensor& x : all) {
    if (x.defined()) x = x.detach().clone().set_requires_grad(true);
  }
  return all;
}

// The value, then the gradients of everything that went in.
template <class Activation>
Tensors value_and_gradients(const Tensors& given) {
  const Tensors all = with_gradients(given);
  const Tensor v = applied<Activation>(all);
  v.backward(laws::doubles(v.sizes(), 77).to(v.scalar_type()));
  Tensors found{v.detach()};
  for (const Tensor& x : all) {
    if (x.defined()) found.push_back(x.grad());
  }
  return found;
}

template <class Activation>
void check_fused(const Tensors& given) {
  Tensors exact = given;
  for (Tensor& x : exact) x = x.defined() ? x.to(at::kDouble) : x;
  const Tensors got = value_and_gradients<Activation>(given);
  const Tensors expected = value_and_gradients<Activation>(exact);
  {
    const cf::ComposedOnly only;
    CHECK(relative_distance(value_and_gradients<Activation>(given)[0], expected[0]) < 3e-6);
  }
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO((i == 0 ? "value" : "gradient ") << i);
    CHECK(relative_distance(got[i], expected[i]) < 3e-6);
  }
  const at::NoGradGuard no_gradient;
  CHECK(same_bits(applied<Activation>(given), got[0]));
}

bool is_fused(const Tensor& x) {
  return x.grad_fn() && x.grad_fn()->name().find("FusedMlp") != std::string::npos;
}

}  // namespace

TEST_CASE("layers of one kernel are those of LibTorch's operations") {
  for (const bool adds : {false, true}) {
    check_fused<kernels::Silu>(random_layers({1, 3}, {5}, adds));
    check_fused<kernels::Silu>(random_layers({200, 10}, {32, 32, 2}, adds));
    check_fused<kernels::GeluTanh>(random_layers({3, 16, 24}, {96, 24}, adds));
    check_fused<kernels::GeluTanh>(random_layers({2, 3, 5, 8}, {7, 16}, adds));
  }
  Tensors gaps = random_layers({8, 40}, {16, 8}, false);
  gaps[0] = gaps[0].t();
  gaps[3] = laws::floats({8, 16}, 5).t();
  check_fused<kernels::Silu>(gaps);
}

TEST_CASE("layers that do not fit each other are refused") {
  const Tensors given = random_layers({40, 8}, {16, 8}, true);
  for (const std::size_t which : {0, 1, 3, 4, 5, 6}) {
    INFO(which);
    Tensors other = given;
    other[which] = laws::floats(which == 4 || which == 6 ? std::vector<std::int64_t>{5}
                                                         : std::vector<std::int64_t>{5, 7});
    CHECK_THROWS(applied<kernels::Silu>(other));
  }
}

TEST_CASE("layers are a kernel for float32 on the CPU, and not where told otherwise") {
  // A processor without packs that are multiplied and added at once is left to LibTorch.
  const Tensors given = with_gradients(random_layers({40, 8}, {16, 8}, true));
  CHECK(is_fused(applied<kernels::Silu>(given)) == kernels::has_fast_products);
  CHECK(is_fused(cf::linear(given[0], {given[3]})) == kernels::has_fast_products);
  for (const at::ScalarType dtype : {at::kDouble, at::kBFloat16}) {
    Tensors other;
    for (const Tensor& x : given) other.push_back(x.to(dtype));
    CHECK_FALSE(is_fused(applied<kernels::Silu>(other)));
  }
  {
    const cf::Autocast half(at::kCPU, at::kBFloat16);
    CHECK_FALSE(is_fused(applied<kernels::Silu>(given)));
  }
  {
    const cf::ComposedOnly only;
    CHECK_FALSE(is_fused(applied<kernels::Silu>(given)));
  }
  const std::int64_t wide = cf::detail::most_fused_width;
  CHECK_FALSE(is_fused(
      applied<kernels::Silu>(with_gradients(random_layers({2, 8}, {wide + 1, 8}, false)))));
}

TEST_CASE("a module's layers are the kernel, and its adapters go through it") {
  cf::LoraLinear layer(16, 8);
  cf::FeedForward feed_forward(16);
  cf::EmbeddingMlp embedding(16, 8);
  cf::Generator generator = cf::seeded(1);
  for (torch::nn::Module* module :
       std::vector<torch::nn::Module*>{&layer, &feed_forward, &embedding}) {
    cf::initialise(*module, generator);
  }
  const Tensor x = laws::floats({50, 16});
  for (const Tensor& out : {layer.forward(x), feed_forward.forward(x), embedding.forward(x)}) {
    CHECK(is_fused(out) == kernels::has_fast_products);
  }
}

TEST_CASE("layers that are frozen get no gradients, nor does what nobody wants one of") {
  Tensors given = random_layers({40, 8}, {16, 8}, true);
  given[0].set_requires_grad(true);
  applied<kernels::Silu>(given).sum().backward();
  CHECK(given[0].grad().defined());
  for (std::size_t i = 1; i < given.size(); ++i) CHECK_FALSE(given[i].grad().defined());

  Tensors other = random_layers({40, 8}, {16, 8}, true);
  other[6].set_requires_grad(true);
  applied<kernels::Silu>(other).sum().backward();
  CHECK(relative_distance(other[6].grad(), at::full({8}, 40.0F)) < 1e-6);
  for (std::size_t i = 0; i < 6; ++i) CHECK_FALSE(other[i].grad().defined());
}

TEST_CASE("second derivatives of layers are refused") {
  const Tensors given = with_gradients(random_layers({40, 8}, {16, 8}, false));
  if (!kernels::has_fast_products) return;
  const Tensor sum = applied<kernels::Silu>(given).sum();
  check_error(
      [&] {
        torch::autograd::grad({sum}, {given[0]}, {}, /*retain_graph=*/true, /*create_graph=*/true);
      },
      "create_graph", "first derivatives only");
}

TEST_CASE("a row of layers has the same bits beside any others, and on any number of threads") {
  const at::NoGradGuard no_gradient;
  Tensors given = random_layers({1300, 64}, {256, 64}, false);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Tensor all = applied<kernels::GeluTanh>(given);
  at::set_num_threads(3);
  CHECK(same_bits(applied<kernels::GeluTanh>(given), all));
  at::set_num_threads(threads);
  if (!kernels::has_fast_products) return;
  for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{0, 1}, {5, 97}}) {
    Tensors some = given;
    some[0] = given[0].narrow(0, first, count);
    CHECK(same_bits(applied<kernels::GeluTanh>(some), all.narrow(0, first, count)));
  }
}

TEST_CASE("a fused MLP has the velocity and the gradients of the composed one") {
  for (const std::int64_t classes : {0, 3}) {
    const auto all = [&](at::ScalarType dtype) {
      cf::MlpVelocity model({.dimension = 2, .width = 32, .classes = classes, .seed = 4});
      model->to(dtype);
      const Tensor x = laws::floats({70, 2}).to(dtype), t = laws::floats({70}, 2).abs().to(dtype);
      const Tensor labels = at::arange(70, at::kLong).remainder(3);
      const Tensor v = classes > 0 ? model(x, t, labels) : model(x, t);
      v.backward(laws::floats(v.sizes(), 5).to(dtype));
      Tensors found{v.detach()};
      for (const Tensor& parameter : model->parameters()) found.push_back(parameter.grad());
      return found;
    };
    const Tensors fused = all(at::kFloat), exact = all(at::kDouble);
    const cf::ComposedOnly only;
    const Tensors composed = all(at::kFloat);
    bool differs = false;
    for (std::size_t i = 0; i < fused.size(); ++i) {
      CHECK(relative_distance(fused[i], exact[i]) < 1e-5);
      CHECK(relative_distance(composed[i], exact[i]) < 1e-5);
      differs |= !same_bits(fused[i], composed[i]);
    }
    CHECK(differs == kernels::has_fast_products);
  }
}

TEST_CASE("features of time have the frequencies that they are given") {
  const Tensor x = laws::floats({5, 2}, 1), t = laws::floats({5}, 2).sigmoid();
  const Tensor usual = at::pow(2.0, at::arange(4, at::kFloat)) * (M_PI / 2);
  const Tensor rounded = usual.to(at::kBFloat16).to(at::kFloat);
  CHECK(cf::detail::is_fused_fourier(x, t, usual));
  CHECK(!cf::detail::is_fused_fourier(x, t, rounded));
  CHECK(!cf::detail::is_fused_fourier(x.clone().requires_grad_(true), t, usual));
  CHECK(!cf::detail::is_fused_fourier(x, t.narrow(0, 0, 1), usual));
  for (const Tensor& frequencies : {usual, rounded}) {
    const Tensor phase = at::outer(t, frequencies);
    const Tensor expected = at::cat({x, phase.sin(), phase.cos()}, 1);
    CHECK(laws::relative_distance(cf::with_fourier_features(x, t, frequencies), expected) < 1e-6);
  }
}
