// The fused layers in float32 against the composed ones in float64, with their gradients; when
// which of them is taken.

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/Parallel.h>
#include <catch2/catch_test_macros.hpp>
#include <torch/csrc/autograd/forward_grad.h>

#include <contraflow/model/dit.hpp>
#include <contraflow/network/autocast.hpp>
#include <contraflow/network/joint_attention.hpp>
#include <contraflow/network/modulation.hpp>

#include "laws/errors.hpp"
#include "network/tiny_mmdit.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;
using laws::same_bits;

namespace {

using Inputs = std::vector<Tensor>;
using Layer = std::function<Tensor(const Inputs&)>;

// What a layer gives, then its gradients by its inputs.
Inputs value_and_gradients(const Layer& layer, const Inputs& inputs) {
  Inputs leaves;
  for (const Tensor& x : inputs) leaves.push_back(x.detach().clone().set_requires_grad(true));
  const Tensor out = layer(leaves);
  const Tensor upstream = laws::doubles(out.sizes(), 77).to(out.scalar_type());
  Inputs all = torch::autograd::grad({out}, leaves, {upstream});
  all.insert(all.begin(), out.detach());
  return all;
}

// The fused layer against the composed one in float64; without a gradient it has the same bits.
void check_fused(const Layer& layer, const Inputs& inputs, double tolerance = 3e-6) {
  Inputs exact;
  for (const Tensor& x : inputs) exact.push_back(x.to(at::kDouble));
  const Inputs got = value_and_gradients(layer, inputs);
  const Inputs expected = value_and_gradients(layer, exact);
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO((i == 0 ? "value" : "gradient ") << i);
    // What has one key only does not depend on it: its gradient is zero but for rounding.
    if (expected[i].norm().item<double>() < 1e-12) {
      CHECK(got[i].norm().item<double>() < tolerance);
    } else {
      CHECK(relative_distance(got[i], expected[i]) < tolerance);
    }
  }
  const at::NoGradGuard no_gradient;
  Inputs copies;
  for (const Tensor& x : inputs) copies.push_back(x.clone());
  CHECK(same_bits(layer(copies), got[0]));
}

Tensor modulated(const Inputs& in) {
  const auto m = in[1].chunk(3, 1);
  return cf::detail::modulated(cf::detail::normalised_layer(in[0]), m[1], m[2]);
}
Tensor gated(const Inputs& in) { return cf::detail::gated(in[0], in[1].chunk(3, 1)[1], in[2]); }

Tensor joint(const Inputs& in) {
  return at::cat(
      cf::attended({{in[0], in[1], in[2], in[6], in[7]}, {in[3], in[4], in[5], in[8], in[9]}}, 2),
      1);
}
// The text is looked at and does not look.
Tensor image_alone(const Inputs& in) {
  return cf::attended({{in[0], in[1], in[2], in[5], in[6]}, {{}, in[3], in[4], {}, in[7]}}, 2)[0];
}
Tensor of_context(const Inputs& in) { return cf::attended({{in[0], in[1], in[2], {}, {}}}, 2)[0]; }

// The name of what computed it; nothing without a gradient.
std::string maker(const Tensor& x) { return x.grad_fn() ? x.grad_fn()->name() : ""; }
bool is_fused(const Tensor& x) { return maker(x).find("contraflow") != std::string::npos; }

Tensor trainable(at::IntArrayRef shape, std::uint64_t seed = 1) {
  return laws::floats(shape, seed).set_requires_grad(true);
}

}  // namespace

TEST_CASE("fused norms, gates and activations are the composed ones") {
  for (const std::int64_t size : {1, 7, 16, 33, 64, 100}) {
    for (const auto& [batch, tokens] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 5}}) {
      INFO(batch << " x " << tokens << " x " << size);
      const Tensor x = laws::floats({batch, tokens, size}), y = laws::floats(x.sizes(), 2);
      const Tensor rows = laws::floats({batch, 3 * size}, 3);
      if (size > 1) check_fused(modulated, {x, rows});
      check_fused(gated, {x, rows, y});
      check_fused([](const Inputs& in) { return cf::gelu_tanh(Tensor(in[0])); }, {3 * x});
      check_fused([](const Inputs& in) { return cf::silu(Tensor(in[0])); }, {3 * x});
    }
  }
}

TEST_CASE("fused attention is the composed one") {
  for (const std::int64_t size : {3, 5, 16, 32}) {
    for (const auto& [batch, image, text] :
         {std::tuple<std::int64_t, std::int64_t, std::int64_t>{1, 1, 1}, {3, 16, 8}, {2, 5, 12}}) {
      INFO(batch << " samples of " << image << " and " << text << " tokens, heads of " << size);
      std::uint64_t seed = 1;
      const auto tokens = [&, b = batch](std::int64_t n) {
        return laws::floats({b, n, 2 * size}, seed++);
      };
      const auto weight = [&] { return 1 + laws::floats({size}, seed++) / 10; };
      const Tensor q = tokens(image), k = tokens(image), v = tokens(image);
      const Tensor p = tokens(text), l = tokens(text), w = tokens(text);
      const Tensor a = weight(), b = weight(), c = weight(), d = weight();
      check_fused(joint, {q, k, v, p, l, w, a, b, c, d}, 1e-5);
      check_fused(image_alone, {q, k, v, l, w, a, b, d}, 1e-5);
      check_fused(of_context, {q, l, w}, 1e-5);
    }
  }
}

TEST_CASE("tensors with gaps are taken as they are meant") {
  const Tensor x = laws::floats({4, 6, 3}).transpose(1, 2);
  const Tensor rows = laws::floats({18, 4}, 3).t(), y = laws::floats({3, 4, 6}, 2).transpose(0, 1);
  check_fused(modulated, {x, rows});
  check_fused(gated, {x, rows, y});
  check_fused([](const Inputs& in) { return cf::silu(in[0].transpose(0, 1)); }, {x});
  check_fused(
      [](const Inputs& in) {
        return of_context({in[0], in[1], in[1]});
      },
      {x, laws::floats({4, 6, 5}, 9).transpose(1, 2)}, 1e-5);
}

TEST_CASE("shapes that do not fit are refused or left to LibTorch") {
  const Tensor x = laws::floats({2, 3, 8}), other = laws::floats({3, 3, 8});
  check_error(
      [&] {
        cf::attended({{x, x, x, {}, {}}}, 3);
      },
      "heads", "a divisor of the features of keys [B, L, features], got 3");
  check_error([&] { cf::attended({}, 2); }, "streams", "at least one, got 0");
  check_error([&] { cf::attended({{{}, x, x, {}, {}}}, 2); }, "streams", "one with queries, got 1");
  check_error(
      [&] {
        cf::attended({{x, x, x, {}, {}}, {{}, other, other, {}, {}}}, 2);
      },
      "streams", "queries, keys and values of one batch and size");
  const Tensor row = laws::floats({1, 24}), rows = row.expand({2, 24});
  CHECK(relative_distance(modulated({x, row}), modulated({x, rows})) < 1e-6);
  CHECK(relative_distance(gated({x, row, x}), gated({x, rows, x})) < 1e-6);
  CHECK_THROWS(gated({x, laws::floats({3, 24}), x}));
}

TEST_CASE("gradients that nobody wants are left out") {
  const Tensor x = trainable({2, 3, 8}), rows = laws::floats({2, 24}, 2), y = trainable({2, 3, 8});
  const Tensor weight = laws::floats({4}, 5), k = laws::floats({2, 3, 8}, 6);
  const Tensor out =
      gated({modulated({x, rows}), rows, y}) + cf::attended({{x, k, k, weight, weight}}, 2)[0];
  out.sum().backward();
  CHECK(x.grad().defined());
  CHECK(y.grad().defined());
  for (const Tensor& frozen : {rows, weight, k}) CHECK_FALSE(frozen.grad().defined());
}

TEST_CASE("what is overwritten is not needed by a gradient") {
  const Tensor x = laws::floats({5, 9}), kept = x.clone();
  {
    const at::NoGradGuard no_gradient;
    const Tensor out = cf::gelu_tanh(Tensor(x));
    CHECK(out.is_same(x));
  }
  const Tensor y = kept.clone().set_requires_grad(true);
  cf::gelu_tanh(Tensor(y)).sum().backward();
  CHECK(same_bits(y.detach(), kept));
}

TEST_CASE("kernels are taken for float32 on the CPU, and not where told otherwise") {
  const Tensor x = trainable({2, 3, 8}), rows = trainable({2, 24}, 2);
  const auto all = [&](const Tensor& in, const Tensor& r) {
    return Inputs{modulated({in, r}), gated({in, r, in}), of_context({in, in, in}),
                  cf::gelu_tanh(Tensor(in)), cf::silu(Tensor(in))};
  };
  for (const Tensor& out : all(x, rows)) CHECK(is_fused(out));
  for (const Tensor& out : all(x.to(at::kDouble), rows.to(at::kDouble))) CHECK_FALSE(is_fused(out));
  for (const Tensor& out : all(x.to(at::kBFloat16), rows.to(at::kBFloat16))) {
    CHECK_FALSE(is_fused(out));
  }
  {
    const cf::Autocast half(at::kCPU, at::kBFloat16);
    for (const Tensor& out : all(x, rows)) CHECK_FALSE(is_fused(out));
  }
  {
    const cf::ComposedOnly outer;
    { const cf::ComposedOnly inner; }
    CHECK(cf::ComposedOnly::in_force());
    for (const Tensor& out : all(x, rows)) CHECK_FALSE(is_fused(out));
  }
  CHECK_FALSE(cf::ComposedOnly::in_force());
  const Tensor many = trainable({1, cf::detail::most_fused_tokens, 8});
  CHECK_FALSE(is_fused(of_context({many, many, many})));
}

TEST_CASE("derivatives that the kernels lack are refused, or left to LibTorch") {
  const Tensor x = trainable({2, 3, 4}), rows = trainable({2, 12}, 2);
  const std::vector<std::pair<const char*, Tensor>> values{
      {"modulated", modulated({x, rows})},
      {"gated", gated({x, rows, x})},
      {"activation", cf::gelu_tanh(x * 1)},
      {"attention", cf::attended({{x, x, x, {}, {}}}, 2)[0]}};
  for (const auto& [name, of_layer] : values) {
    INFO(name);
    const Tensor& value = of_layer;
    REQUIRE(is_fused(value));
    check_error(
        [&] {
          torch::autograd::grad({value.sum()}, {x}, {}, /*retain_graph=*/true,
                                /*create_graph=*/true);
        },
        "create_graph", "first derivatives only");
  }

  // The tangent of a forward-mode derivative goes through what has a rule for it.
  const at::NoGradGuard no_gradient;
  const Tensor primal = laws::floats({5}), tangent = laws::floats({5}, 3);
  const std::uint64_t level = torch::autograd::ForwardADLevel::get_next_idx();
  const Tensor dual = at::_make_dual(primal.clone(), tangent, std::int64_t(level));
  const Tensor got = cf::silu(Tensor(dual))._fw_grad(level).clone();
  torch::autograd::ForwardADLevel::release_idx(level);
  const Tensor s = at::sigmoid(primal);
  CHECK(relative_distance(got, tangent * s * (1 + primal * (1 - s))) < 1e-6);
}

TEST_CASE("a fused transformer has the velocity and the gradients of the composed one") {
  const auto all = [](bool recompute) {
    cf::Mmdit model = tiny::mmdit(1, {.recompute = recompute});
    Inputs found{tiny::velocity(model)};
    (found[0] * laws::floats(found[0].sizes(), 9)).sum().backward();
    for (const Tensor& parameter : model.module()->parameters()) {
      found.push_back(parameter.grad().defined() ? parameter.grad() : at::zeros_like(parameter));
    }
    return found;
  };
  const Inputs fused = all(false), again = all(true);
  const cf::ComposedOnly only;
  const Inputs composed = all(false);
  for (std::size_t i = 0; i < fused.size(); ++i) {
    CHECK(relative_distance(fused[i], composed[i]) < 2e-5);
    CHECK(relative_distance(again[i], fused[i]) < 1e-5);
  }
}

TEST_CASE("a fused transformer gives a sample the same bits on any number of threads") {
  const tiny::Input in = tiny::input(5);
  const at::NoGradGuard no_gradient;
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Tensor expected = tiny::velocity(tiny::mmdit(), in);
  at::set_num_threads(3);
  CHECK(same_bits(tiny::velocity(tiny::mmdit(), in), expected));
  // Inside of a parallel region every thread works for itself.
  std::vector<Tensor> each(6);
  at::parallel_for(0, 6, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard here;
    for (std::int64_t i = begin; i < end; ++i) {
      each[std::size_t(i)] = tiny::velocity(tiny::mmdit(), in);
    }
  });
  at::set_num_threads(threads);
  for (const Tensor& velocity : each) CHECK(same_bits(velocity, expected));
}
