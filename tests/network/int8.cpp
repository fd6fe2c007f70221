// Weights in 8 bits: how far off they are, and that nothing but rounding tells them from others.

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/network/autocast.hpp>
#include <contraflow/network/int8.hpp>
#include <contraflow/network/lora.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/policy/single_model.hpp>
#include <contraflow/policy/snapshot_policy.hpp>

#include "laws/errors.hpp"
#include "network/tiny_mmdit.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::doubles;
using laws::floats;
using laws::relative_distance;
using laws::same_bits;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// The tiny transformer with its blocks in 8 bits.
std::shared_ptr<cf::MmditNetwork> rounded_network(std::uint64_t seed = 1) {
  const auto network = tiny::network(seed);
  network->keep_blocks_in_int8();
  return network;
}

/// The same values in floating point: each weight in 8 bits as what it stands for.
std::shared_ptr<cf::MmditNetwork> composed_network() {
  const auto network = tiny::network();
  for (const auto& item : rounded_network()->named_modules()) {
    const auto* layer = dynamic_cast<const cf::LoraLinear*>(item.value().get());
    if (layer == nullptr || !layer->int8()) continue;
    Tensor(cf::named_weights(*network).at(item.key() + ".weight"))
        .set_data(cf::dequantised(*layer->int8()));
  }
  return network;
}

std::int64_t bytes_of(const torch::nn::Module& network) {
  std::int64_t bytes = 0;
  for (const auto& [name, weight] : cf::named_weights(network)) {
    bytes += weight.numel() * std::int64_t(weight.itemsize());
  }
  return bytes;
}

/// An adapter whose factors are both not zero, in use and to be trained.
void add_adapter(cf::Lora& lora) {
  cf::Generator generator = cf::seeded(5);
  lora.add("any", {.rank = 2, .alpha = 4}, generator);
  for (Tensor& tensor : lora.parameters("any")) tensor.copy_(cf::normal_like(tensor, generator));
  lora.set_trainable("any", true);
  lora.use("any");
}

/// The velocity, and the gradients of the input and of an adapter.
std::vector<Tensor> velocity_and_gradients(const std::shared_ptr<cf::MmditNetwork>& network,
                                           const cf::MmditRunOptions& run = {},
                                           std::optional<at::ScalarType> autocast = {}) {
  cf::set_trainable(*network, false);
  cf::Lora lora(network);
  add_adapter(lora);
  tiny::Input in = tiny::input();
  in.x_t.set_requires_grad(true);
  Tensor v;
  {
    const cf::Autocast precision(at::kCPU, autocast);
    v = tiny::velocity(cf::Mmdit(network, run), in);
  }
  (v * floats(v.sizes(), 9)).sum().backward();
  std::vector<Tensor> all{v.detach(), in.x_t.grad()};
  for (const Tensor& tensor : lora.parameters("any")) all.push_back(tensor.grad());
  return all;
}

}  // namespace

TEST_CASE("an element is off by half the scale of its output at most") {
  // Outputs of quite different sizes, and enough numbers for several blocks of rows.
  const Tensor sizes = at::logspace(-4, 3, 40, 10, at::kDouble).unsqueeze(1);
  const Tensor drawn = doubles({40, 120'000}) * sizes;
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    const Tensor weight = drawn.clamp(-6e4, 6e4).to(dtype);
    const cf::Int8Weight rounded = cf::quantised(weight);
    CHECK(rounded.values.scalar_type() == at::kChar);
    CHECK(rounded.dtype == dtype);
    CHECK(same_bits(rounded.values.abs().amax(1), at::full({40}, 127, at::kChar)));
    const Tensor off = (cf::dequantised(rounded, at::kDouble) - weight.to(at::kDouble)).abs();
    const Tensor half = rounded.scale.to(at::kDouble).unsqueeze(1) / 2;
    CHECK((off <= half * (1 + 1e-4)).all().item<bool>());
    // The bound is reached.
    CHECK((off > half * 0.99).any().item<bool>());
    CHECK(same_bits(cf::dequantised(rounded), cf::dequantised(rounded, at::kDouble)
                                                  .to(dtype == at::kDouble ? dtype : at::kFloat)
                                                  .to(dtype)));
  }
}

TEST_CASE("weights on the grid keep their bits, and outputs of zeros stay zeros") {
  cf::Generator generator = cf::seeded(1);
  Tensor whole = cf::normal({6, 50}, generator).mul_(40).round_().clamp_(-127, 127);
  whole.select(1, 7).fill_(-127);
  whole.select(0, 2).zero_();
  const Tensor scales = at::pow(2, at::tensor({-9.0F, -3.0F, 0.0F, 2.0F, 5.0F, -20.0F}));
  const Tensor weight = whole * scales.unsqueeze(1);
  const cf::Int8Weight rounded = cf::quantised(weight);
  CHECK(same_bits(cf::dequantised(rounded), weight));
  CHECK(same_bits(rounded.values, whole.to(at::kChar)));
  CHECK(rounded.scale[2].item<float>() == 0);
}

TEST_CASE("what is no weight, or not finite, is refused by name") {
  for (const double bad : {std::nan(""), infinity, -infinity}) {
    Tensor weight = floats({3, 4});
    weight[1][2] = bad;
    check_error([&] { cf::quantised(weight, "a.weight"); }, "a.weight", "got NaN or infinity");
  }
  check_error([] { cf::quantised(floats({3}), "a"); }, "a", "got [3]");
  check_error([] { cf::quantised(at::ones({3, 4}, at::kLong), "a"); }, "a", "floating-point");
  const auto network = tiny::network();
  const std::string name = "transformer_blocks.1.attn.to_v.weight";
  Tensor(cf::named_weights(*network).at(name)).set_data(at::full({16, 16}, std::nan("")));
  auto weights = cf::named_weights(*network);
  const auto other = std::make_shared<cf::MmditNetwork>(tiny::options());
  other->keep_blocks_in_int8();
  check_error([&] { cf::load_weights(*other, weights, "file"); }, name, "got NaN or infinity");
}

TEST_CASE("a layer in 8 bits is the layer of the weight that it stands for, gradients too") {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const cf::Int8Weight weight = cf::quantised(doubles({7, 5}).to(dtype));
    for (const std::vector<std::int64_t>& shape :
         {std::vector<std::int64_t>{5}, {3, 5}, {2, 3, 5}}) {
      for (const bool has_bias : {true, false}) {
        const auto run = [&](auto&& layer) {
          const Tensor x = doubles(shape, 2).to(dtype).requires_grad_();
          const Tensor b = has_bias ? doubles({7}, 3).to(dtype).requires_grad_() : Tensor();
          const Tensor y = layer(x, b);
          y.backward(doubles(y.sizes(), 4).to(dtype));
          std::vector<Tensor> all{y.detach(), x.grad()};
          if (has_bias) all.push_back(b.grad());
          return all;
        };
        const auto got =
            run([&](const Tensor& x, const Tensor& b) { return cf::int8_linear(x, weight, b); });
        const auto expected = run([&](const Tensor& x, const Tensor& b) {
          return at::linear(x, cf::dequantised(weight), b);
        });
        for (std::size_t i = 0; i < got.size(); ++i) CHECK(same_bits(got[i], expected[i]));
      }
    }
  }
}

TEST_CASE("the weight in floating point is not kept between the passes") {
  const cf::Int8Weight weight = cf::quantised(floats({7, 5}));
  const Tensor x = floats({3, 5}, 2).requires_grad_();
  const Tensor y = cf::int8_linear(x, weight);
  // Behind autograd's back.
  std::memset(weight.scale.mutable_data_ptr(), 0, weight.scale.nbytes());
  y.sum().backward();
  CHECK(x.grad().abs().max().item<double>() == 0);
}

TEST_CASE("a network in 8 bits is the network of the weights that they stand for") {
  const cf::ComposedOnly layers;
  const auto got = velocity_and_gradients(rounded_network());
  const auto expected = velocity_and_gradients(composed_network());
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(same_bits(got[i], expected[i]));
  // Otherwise this says nothing.
  const auto plain = velocity_and_gradients(tiny::network());
  CHECK(relative_distance(plain[0], got[0]) > 1e-3);
  CHECK(relative_distance(plain[0], got[0]) < 0.1);
}

TEST_CASE("so it is under automatic mixed precision, and where blocks are computed again") {
  const auto half = velocity_and_gradients(rounded_network(), {}, at::kBFloat16);
  const auto expected = velocity_and_gradients(composed_network(), {}, at::kBFloat16);
  for (std::size_t i = 0; i < half.size(); ++i) CHECK(same_bits(half[i], expected[i]));
  for (const std::optional<at::ScalarType> autocast :
       {std::optional<at::ScalarType>(), std::optional(at::kBFloat16)}) {
    const auto kept = velocity_and_gradients(rounded_network(), {}, autocast);
    const auto again = velocity_and_gradients(rounded_network(), {.recompute = true}, autocast);
    for (std::size_t i = 0; i < kept.size(); ++i) CHECK(same_bits(again[i], kept[i]));
  }
}

TEST_CASE("blocks take half the memory of bfloat16, and some hundredths") {
  cf::MmditOptions shape = tiny::options();
  shape.attention_head_dim = 128;
  shape.caption_projection_dim = shape.width();
  cf::MmditBlock block(shape, true, false);
  cf::Generator generator = cf::seeded(1);
  cf::initialise(block, generator);
  cf::move_weights(block, {.dtype = at::kBFloat16});
  const std::int64_t before = bytes_of(block);
  cf::keep_in_int8(block);
  CHECK(double(bytes_of(block)) < 0.52 * double(before));
  CHECK(block.named_parameters().contains("ff.net.2.bias"));
  CHECK_FALSE(block.named_parameters().contains("ff.net.2.weight"));
}

TEST_CASE("weights are rounded as they come what they are rounded to later") {
  const auto weights = cf::named_weights(*tiny::network());
  const auto early = std::make_shared<cf::MmditNetwork>(tiny::options());
  early->keep_blocks_in_int8();
  CHECK_FALSE(tiny::velocity(cf::Mmdit(early)).isfinite().any().item<bool>());
  cf::load_weights(*early, weights, "file");
  const auto own = cf::named_weights(*early), later = cf::named_weights(*rounded_network());
  REQUIRE(own.size() == later.size());
  for (const auto& [name, weight] : later) CHECK(same_bits(own.at(name), weight));
  CHECK(cf::int8_layer_count(*early) == 3 * (8 + 4 + 2) + 4 - 1 - 2);
  CHECK(own.at("proj_out.weight").scalar_type() == at::kFloat);
  // What a file has to hold is the same.
  auto missing = weights;
  missing.erase("transformer_blocks.1.attn.to_v.weight");
  check_error([&] { cf::load_weights(*early, missing, "file"); }, "file",
              "missing: transformer_blocks.1.attn.to_v.weight");
  check_error([&] { cf::load_weights(*early, later, "file"); }, "file", "unexpected");
}

TEST_CASE("a network in 8 bits is drawn, moved and copied as others are") {
  const auto drawn = [](bool first) {
    auto network = std::make_shared<cf::MmditNetwork>(tiny::options());
    if (first) network->keep_blocks_in_int8();
    cf::Generator generator = cf::seeded(4);
    cf::initialise(*network, generator);
    if (!first) network->keep_blocks_in_int8();
    return cf::named_weights(*network);
  };
  const auto first = drawn(true), later = drawn(false);
  REQUIRE(first.size() == later.size());
  for (const auto& [name, weight] : later) {
    if (name != "pos_embed.pos_embed") CHECK(same_bits(first.at(name), weight));
  }

  cf::Mmdit model(rounded_network());
  cf::Mmdit copy = model.clone();
  const Tensor before = tiny::velocity(model).detach();
  CHECK(same_bits(tiny::velocity(copy).detach(), before));
  cf::copy_weights(*rounded_network(2), model.network());
  CHECK_FALSE(same_bits(tiny::velocity(model).detach(), before));
  CHECK(same_bits(tiny::velocity(copy).detach(), before));

  const std::string name = "transformer_blocks.0.ff.net.2.weight";
  cf::move_weights(copy.network(), {.dtype = at::kBFloat16});
  const auto moved = cf::named_weights(copy.network());
  CHECK(moved.at(name).scalar_type() == at::kChar);
  CHECK(moved.at(name + "_scale").scalar_type() == at::kFloat);
  CHECK(moved.at("proj_out.weight").scalar_type() == at::kBFloat16);
  CHECK(relative_distance(tiny::velocity(copy), before) < 0.05);
  CHECK_FALSE(same_bits(tiny::velocity(copy).detach(), before));
}

TEST_CASE("a network in 8 bits is not trained itself") {
  const cf::Mmdit model(rounded_network());
  const std::string name = "transformer_blocks.0.attn.add_k_proj.weight";
  check_error([&] { cf::set_trainable(*model.module(), true); }, name, "LoraPolicy");
  check_error([&] { cf::SnapshotPolicy{model}; }, name, "got one in 8 bits");
  check_error([&] { cf::SingleModel{model}; }, name, "got one in 8 bits");
  cf::set_trainable(*model.module(), false);
  const cf::Mmdit open(tiny::network());
  cf::set_trainable(*open.module(), true);
  cf::keep_in_int8(*open.module());
  for (const auto& item : open.module()->named_parameters()) {
    if (item.key().ends_with("attn.to_q.bias")) CHECK_FALSE(item.value().requires_grad());
  }
}

TEST_CASE("adapters over a base in 8 bits are not those over another") {
  const auto policy = [](std::shared_ptr<cf::MmditNetwork> network) {
    return cf::LoraPolicy(cf::Mmdit(std::move(network)), {.rank = 2, .alpha = 6});
  };
  auto rounded = policy(rounded_network()), again = policy(rounded_network()),
       plain = policy(tiny::network());
  again.load(rounded.state());
  check_error([&] { plain.load(rounded.state()); }, "base", "layers in 8 bits");
  check_error([&] { rounded.load(plain.state()); }, "base", "expected 0 layers in 8 bits");
}
