// Activations that are computed again: nothing but memory and time may show it.

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/network/autocast.hpp>
#include <contraflow/network/lora.hpp>
#include <contraflow/network/recompute.hpp>

#include "network/tiny_mmdit.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::relative_distance;
using laws::same_bits;

namespace {

struct Setting {
  bool recompute;
  bool other_role_between = false;
  std::optional<at::ScalarType> autocast = {};
};

// An adapter whose factors are both not zero.
void add_adapter(cf::Lora& lora, const std::string& name, std::uint64_t seed) {
  cf::Generator generator = cf::seeded(seed);
  lora.add(name, {.rank = 2, .alpha = 4}, generator);
  for (Tensor& tensor : lora.parameters(name)) tensor.copy_(cf::normal_like(tensor, generator) / 3);
  lora.set_trainable(name, true);
}

// Velocity and gradients of inputs, weights and adapter.
std::vector<Tensor> velocity_and_gradients(const Setting& setting) {
  cf::Mmdit model = tiny::mmdit(1, {.recompute = setting.recompute});
  cf::Lora lora(model.module());
  add_adapter(lora, "current", 5);
  add_adapter(lora, "old", 6);
  tiny::Input in = tiny::input();
  for (const Tensor& x : {in.x_t, in.condition.sequence, in.condition.pooled}) {
    Tensor(x).set_requires_grad(true);
  }
  Tensor v;
  {
    const cf::Autocast precision(at::kCPU, setting.autocast);
    lora.use("current");
    v = tiny::velocity(model, in);
    if (setting.other_role_between) {
      lora.use("old");
      const at::NoGradGuard no_gradient;
      tiny::velocity(model, in);
    }
  }
  (v * laws::floats(v.sizes(), 9)).sum().backward();
  std::vector<Tensor> all{v.detach(), in.x_t.grad(), in.condition.sequence.grad(),
                          in.condition.pooled.grad()};
  for (const auto& item : model.module()->named_parameters()) all.push_back(item.value().grad());
  for (const auto& [name, tensor] : lora.tensors("current")) all.push_back(tensor.grad());
  for (const auto& [name, tensor] : lora.tensors("old")) CHECK_FALSE(tensor.grad().defined());
  return all;
}

double distance(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto or_zero = [&](const Tensor& x) { return x.defined() ? x : at::zeros({1}); };
    worst = std::max(worst, relative_distance(or_zero(a[i]), or_zero(b[i])));
  }
  return worst;
}

}  // namespace

TEST_CASE("recomputed gradients of inputs, weights and adapters are the same") {
  const auto plain = velocity_and_gradients({.recompute = false});
  const auto recomputed = velocity_and_gradients({.recompute = true});
  CHECK(same_bits(recomputed[0], plain[0]));
  CHECK(distance(recomputed, plain) < 1e-5);
}

TEST_CASE("another role between the two passes does not disturb") {
  const auto plain = velocity_and_gradients({.recompute = false});
  CHECK(distance(velocity_and_gradients({.recompute = true, .other_role_between = true}), plain) <
        1e-5);
}

TEST_CASE("what was computed in half precision is computed so again") {
  const auto plain = velocity_and_gradients({.recompute = false, .autocast = at::kBFloat16});
  const auto recomputed = velocity_and_gradients({.recompute = true, .autocast = at::kBFloat16});
  CHECK(same_bits(recomputed[0], plain[0]));
  // Gradients are rounded to bfloat16 on their way: sums in another order differ by its last bit.
  CHECK(distance(recomputed, plain) < 0.02);
  // Otherwise this says nothing.
  CHECK_FALSE(same_bits(velocity_and_gradients({.recompute = false})[0], plain[0]));
}

TEST_CASE("what was computed by LibTorch alone is computed so again") {
  const auto gradients = [](bool composed_backward) {
    cf::Mmdit model = tiny::mmdit(1, {.recompute = true});
    const tiny::Input in = tiny::input();
    Tensor v;
    {
      const cf::ComposedOnly forward;
      v = tiny::velocity(model, in);
    }
    const cf::ComposedOnly backward(composed_backward);
    v.square().sum().backward();
    std::vector<Tensor> all;
    for (const Tensor& parameter : model.module()->parameters()) all.push_back(parameter.grad());
    return all;
  };
  const auto expected = gradients(true), got = gradients(false);
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(same_bits(got[i], expected[i]));
}

TEST_CASE("after the backward pass the adapter in use is the one of before") {
  cf::Mmdit model = tiny::mmdit(1, {.recompute = true});
  cf::Lora lora(model.module());
  add_adapter(lora, "current", 5);
  add_adapter(lora, "old", 6);
  lora.use("current");
  const Tensor v = tiny::velocity(model);
  lora.use("old");
  const Tensor old = tiny::velocity(model).detach();
  v.sum().backward();
  CHECK(same_bits(tiny::velocity(model).detach(), old));
}

TEST_CASE("each part runs once forward and once more backward, and without gradients once") {
  const auto layer = std::make_shared<cf::LoraLinear>(3, 3);
  for (Tensor& parameter : layer->parameters()) parameter.set_data(at::ones(parameter.sizes()));
  int calls = 0;
  const auto twice = [&](const std::vector<Tensor>& x) -> std::vector<Tensor> {
    ++calls;
    return {layer->forward(x[0]), layer->forward(x[0]).exp()};
  };
  const Tensor x = laws::floats({2, 3}).set_requires_grad(true);
  const std::vector<Tensor> out = cf::recomputed(*layer, twice, {x});
  CHECK(calls == 1);
  // The second result is not used: its gradient is not defined.
  out[0].sum().backward();
  CHECK(calls == 2);
  CHECK(same_bits(x.grad(), at::full({2, 3}, 3.0F)));
  {
    const at::NoGradGuard no_gradient;
    CHECK_FALSE(cf::recomputed(*layer, twice, {x})[0].requires_grad());
  }
  CHECK(calls == 3);
}

TEST_CASE("frozen weights get no gradient, and no input none") {
  cf::Mmdit model = tiny::mmdit(1, {.recompute = true});
  cf::set_trainable(*model.module(), false);
  CHECK_FALSE(tiny::velocity(model).requires_grad());
  cf::Lora lora(model.module());
  add_adapter(lora, "current", 5);
  lora.use("current");
  tiny::velocity(model).sum().backward();
  for (const Tensor& weight : model.module()->parameters()) CHECK_FALSE(weight.grad().defined());
  int seen = 0;
  for (const Tensor& tensor : lora.parameters("current")) {
    seen += tensor.grad().defined() && tensor.grad().abs().max().item<double>() > 0;
  }
  // Queries of the text in the last block have no influence.
  CHECK(seen == int(lora.parameters("current").size()) - 2);
}

TEST_CASE("the scope of half precision ends, also by an exception") {
  const auto product = [] {
    return at::mm(laws::floats({2, 2}), laws::floats({2, 2})).scalar_type();
  };
  CHECK(product() == at::kFloat);
  try {
    const cf::Autocast outer(at::kCPU, at::kBFloat16);
    CHECK(product() == at::kBFloat16);
    {
      const cf::Autocast inner(at::kCPU, std::nullopt);
      CHECK(product() == at::kFloat);
    }
    CHECK(product() == at::kBFloat16);
    throw std::runtime_error("any");
  } catch (const std::runtime_error&) {
  }
  CHECK(product() == at::kFloat);
  CHECK_FALSE(cf::Autocast::in_force(at::kCPU).has_value());
}
