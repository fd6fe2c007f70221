// Attention against plain operations; copies of weights.

#include <catch2/catch_test_macros.hpp>

#include <contraflow/network/attention.hpp>
#include <contraflow/network/weights.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

TEST_CASE("attention is a mean of values, weighted by the softmax of scaled products") {
  cf::Attention layer(8, 2, 6);
  cf::Generator generator = cf::seeded(7);
  cf::initialise(layer, generator);
  cf::move_weights(layer, {.dtype = at::kDouble});
  const Tensor x = laws::doubles({2, 5, 8}), context = laws::doubles({2, 3, 6});
  const auto weights = cf::named_weights(layer);
  const auto linear = [&](const std::string& name, const Tensor& in) {
    return at::linear(in, weights.at(name + ".weight"), weights.at(name + ".bias"));
  };
  const Tensor q = cf::split_heads(linear("to_q", x), 2);
  const Tensor k = cf::split_heads(linear("to_k", context), 2);
  const Tensor v = cf::split_heads(linear("to_v", context), 2);
  const Tensor share = (at::matmul(q, k.transpose(2, 3)) / 2).softmax(-1);
  const Tensor expected = linear("to_out.0", cf::join_heads(at::matmul(share, v)));
  CHECK(relative_distance(layer.forward(x, context), expected) < 1e-12);
  check_error([] { cf::Attention(8, 3, 8); }, "heads", "a divisor of the features, got 3");
}

TEST_CASE("copied weights are equal and shared with none") {
  cf::Attention layer(8, 2, 6), copy(8, 2, 6);
  cf::Generator generator = cf::seeded(7);
  cf::initialise(layer, generator);
  cf::copy_weights(layer, copy);
  const Tensor x = laws::floats({2, 5, 8}), context = laws::floats({2, 3, 6});
  const Tensor before = layer.forward(x, context);
  CHECK(at::equal(copy.forward(x, context), before));
  {
    const at::NoGradGuard no_gradient;
    for (const Tensor& parameter : copy.parameters()) Tensor(parameter).add_(1);
  }
  CHECK(at::equal(layer.forward(x, context), before));
  CHECK_FALSE(at::equal(copy.forward(x, context), before));
}
