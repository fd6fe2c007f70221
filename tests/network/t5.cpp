// T5: buckets of distance, half precision, the other name of the table, bad input.

#include <catch2/catch_test_macros.hpp>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/network/t5.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

cf::T5Options small_options() {
  return {.vocab_size = 100, .d_model = 48, .d_kv = 8, .d_ff = 96, .num_layers = 3, .num_heads = 4};
}

std::map<std::string, Tensor> weights() {
  return cf::read_safetensors(CONTRAFLOW_TEST_DATA "/sd3/text/t5/model.safetensors").tensors;
}

Tensor tokens() {
  return cf::read_safetensors(CONTRAFLOW_TEST_DATA "/sd3/text/case.safetensors")
      .tensors.at("t5.input_ids");
}

Tensor output(const std::map<std::string, Tensor>& given) {
  cf::T5Encoder net(small_options());
  cf::load_weights(net, given, "test");
  return net.forward(tokens());
}

}  // namespace

TEST_CASE("near distances have buckets of their own, far ones share") {
  const Tensor buckets = cf::relative_buckets(300, cf::T5Options{});
  const auto at = [&](std::int64_t query, std::int64_t key) {
    return buckets[query][key].item<std::int64_t>();
  };
  CHECK(at(5, 5) == 0);
  CHECK(at(5, 4) == 1);
  CHECK(at(10, 3) == 7);
  CHECK(at(10, 2) == 8);
  CHECK(at(5, 6) == 17);
  CHECK(at(2, 10) == 24);
  // 8 + floor(8 log(d / 8) / log(16)): 12 is still in bucket 9, 16 in 10, 32 in 12, 64 in 14.
  CHECK(at(100, 88) == 9);
  CHECK(at(100, 84) == 10);
  CHECK(at(100, 68) == 12);
  CHECK(at(100, 36) == 14);
  CHECK(at(299, 0) == 15);
  CHECK(at(0, 299) == 31);
}

TEST_CASE("positions are only in the bias, and padding is attended to") {
  cf::T5Encoder net(small_options());
  cf::load_weights(net, weights(), "test");
  const Tensor ids = tokens().narrow(0, 0, 1);
  Tensor other = ids.clone();
  other[0][-1] = 50;
  CHECK(relative_distance(net.forward(other).select(1, 0), net.forward(ids).select(1, 0)) > 1e-4);
  const Tensor same = at::full({1, 6}, 7, at::kLong);
  const Tensor y = net.forward(same);
  // The mean of equal values does not depend on how they are weighted.
  CHECK(relative_distance(y.select(1, 0), y.select(1, 5)) < 1e-5);
}

TEST_CASE("the table of tokens is found under its other name") {
  auto given = weights();
  const Tensor expected = output(given);
  auto moved = given.extract("shared.weight");
  moved.key() = "encoder.embed_tokens.weight";
  given.insert(std::move(moved));
  CHECK(at::equal(output(cf::t5_weights(given)), expected));
  given.emplace("shared.weight", given.at("encoder.embed_tokens.weight"));
  CHECK(at::equal(output(cf::t5_weights(given)), expected));
}

TEST_CASE("in half precision the layers that overflow stay wide") {
  const Tensor expected = output(weights());
  const auto half = cf::t5_weights(weights(), at::kHalf);
  CHECK(half.at("encoder.block.1.layer.1.DenseReluDense.wo.weight").scalar_type() == at::kFloat);
  CHECK(half.at("encoder.block.1.layer.1.DenseReluDense.wi_0.weight").scalar_type() == at::kHalf);
  CHECK(output(half).scalar_type() == at::kHalf);
  CHECK(relative_distance(output(half).to(at::kFloat), expected) < 5e-3);
  const auto brain = cf::t5_weights(weights(), at::kBFloat16);
  CHECK(brain.at("encoder.block.1.layer.1.DenseReluDense.wo.weight").scalar_type() ==
        at::kBFloat16);
  CHECK(relative_distance(output(brain).to(at::kFloat), expected) < 5e-2);

  auto large = weights();
  for (auto& [name, weight] : large) {
    if (name.ends_with(".wo.weight")) weight = weight * 1e5;
  }
  CHECK(output(cf::t5_weights(large, at::kHalf)).isfinite().all().item<bool>());
}

TEST_CASE("T5 names what is wrong") {
  auto options = small_options();
  options.relative_attention_num_buckets = 30;
  check_error([&] { cf::T5Encoder net(options); }, "relative_attention_num_buckets",
              "a positive multiple of 4, got 30");
  options = small_options();
  options.relative_attention_max_distance = 8;
  check_error([&] { cf::T5Encoder net(options); }, "relative_attention_max_distance",
              "above a quarter of the buckets, got 8");
  cf::T5Encoder net(small_options());
  cf::load_weights(net, weights(), "test");
  check_error(
      [&] {
        net.forward(at::full({1, 2}, 100, at::kLong));
      },
      "ids", "tokens in [0, 100), got 100");
  check_error([&] { net.forward(at::zeros({3}, at::kLong)); }, "ids", "shape [B, L], got [3]");
}
