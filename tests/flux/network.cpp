// The transformer of FLUX.1: laws of its positions, its guidance and its precision.

#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/flux/flux_config.hpp>
#include <contraflow/model/concept.hpp>
#include <contraflow/network/lora.hpp>

#include "flux/tiny_flux.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::floats;
using laws::relative_distance;
using laws::same_bits;

static_assert(cf::TrainableModel<cf::flux::Model, cf::TextCondition>);

namespace {

// Of each head of q with each of k, at two positions [1, 3].
Tensor products(const Tensor& q, const Tensor& k, const Tensor& at_q, const Tensor& at_k) {
  const std::vector<std::int64_t> channels{2, 4, 10};
  const Tensor a = cf::rotated(q, cf::rotary_table(at_q, channels));
  const Tensor b = cf::rotated(k, cf::rotary_table(at_k, channels));
  return (a * b).sum(-1);
}
Tensor place(double image, double row, double column) {
  return at::tensor({image, row, column}, at::kDouble).unsqueeze(0);
}

Tensor with(const cf::FluxNetwork& net, const tiny::Input& in, double t, double guidance) {
  const std::int64_t rows = in.x_t.size(0);
  return net.forward(
      cf::flux::packed(in.x_t), in.condition,
      {at::full({rows}, t), at::full({rows}, guidance), cf::flux::image_positions(2, 3)});
}

}  // namespace

TEST_CASE("products of turned heads depend on differences of positions alone") {
  const Tensor q = floats({2, 1, 3, 16}, 1), k = floats({2, 1, 3, 16}, 2);
  const Tensor near = products(q, k, place(0, 3, 5), place(1, 1, 9));
  CHECK(relative_distance(products(q, k, place(4, 103, 25), place(5, 101, 29)), near) < 1e-5);
  CHECK(relative_distance(products(q, k, place(0, 0, 0), place(0, 0, 0)), (q * k).sum(-1)) < 1e-6);
  // Each number turns channels of its own.
  for (const Tensor& other : {place(1, 3, 5), place(0, 4, 5), place(0, 3, 6)}) {
    CHECK(relative_distance(products(q, k, other, place(1, 1, 9)), near) > 1e-3);
  }
  // A rotation keeps lengths, and comes in the dtype that it is given.
  const auto table = cf::rotary_table(place(2, 7, 11), {2, 4, 10});
  CHECK(relative_distance(cf::rotated(q, table).norm(2, -1), q.norm(2, -1)) < 1e-6);
  CHECK(cf::rotated(q.to(at::kHalf), table).scalar_type() == at::kHalf);
}

TEST_CASE("attention sees where tokens are relative to each other alone") {
  const auto net = tiny::network();
  const auto* block =
      net->named_modules()["single_transformer_blocks.1.attn"]->as<cf::detail::FluxAttention>();
  REQUIRE(block != nullptr);
  const Tensor x = floats({2, 6, 16}), positions = cf::flux::image_positions(2, 3);
  const auto found = [&](const Tensor& at) {
    return block->forward(x, cf::rotary_table(at, tiny::options().axes_dims_rope));
  };
  const Tensor moved = positions + at::tensor({3.0F, 40.0F, 17.0F});
  CHECK(relative_distance(found(moved), found(positions)) < 1e-5);
  CHECK(relative_distance(found(positions * 2), found(positions)) > 1e-3);
}

TEST_CASE(
    "a guidance scale changes the velocity where there is an embedding of it, and only there") {
  const auto guided = tiny::network(), even = tiny::network(tiny::options(false));
  CHECK(relative_distance(tiny::velocity(cf::flux::Model(guided, 1)),
                          tiny::velocity(cf::flux::Model(guided, 3.5))) > 1e-3);
  CHECK(same_bits(tiny::velocity(cf::flux::Model(even, 1)),
                  tiny::velocity(cf::flux::Model(even, 3.5))));
  CHECK(cf::named_weights(*guided).size() == cf::named_weights(*even).size() + 4);
}

TEST_CASE("in bfloat16 time and guidance are what a thousand times as much rounds to") {
  const auto net = tiny::network();
  cf::move_weights(*net, {.dtype = at::kBFloat16});
  const tiny::Input in = tiny::input();
  const Tensor usual = with(*net, in, 1, 3.5);
  CHECK(usual.scalar_type() == at::kBFloat16);
  CHECK(same_bits(with(*net, in, 1, 3.504), usual));
  CHECK_FALSE(same_bits(with(*net, in, 1, 3.4), usual));
  CHECK(same_bits(with(*net, in, 0.9985, 3.5), usual));
  CHECK_FALSE(same_bits(with(*net, in, 0.99, 3.5), usual));
  // 0.99802 rounds to 0.9961 first; a thousand times as much alone would round to 1000.
  CHECK(same_bits(with(*net, in, 0.99802, 3.5), with(*net, in, 0.996, 3.5)));
}

TEST_CASE("the text takes part, and its order does not: it has no positions") {
  const cf::flux::Model model(tiny::network());
  tiny::Input in = tiny::input();
  const Tensor before = tiny::velocity(model, in);
  const Tensor sequence = in.condition.sequence;
  in.condition.sequence = sequence.index_select(1, laws::shuffled(5));
  CHECK(relative_distance(tiny::velocity(model, in), before) < 1e-5);
  in.condition.sequence = sequence * 2;
  CHECK(relative_distance(tiny::velocity(model, in), before) > 1e-3);
}

TEST_CASE("a sample does not depend on those beside it") {
  const cf::flux::Model model(tiny::network());
  const tiny::Input in = tiny::input(3);
  const Tensor together = tiny::velocity(model, in);
  for (std::int64_t i = 0; i < 3; ++i) {
    const Tensor id = at::tensor({i}, at::kLong);
    const Tensor alone = tiny::velocity(
        model,
        {in.x_t.index_select(0, id), in.t.index_select(0, id), cf::select(in.condition, id)});
    CHECK(relative_distance(alone, together.narrow(0, i, 1)) < 1e-5);
  }
}

TEST_CASE("blocks that are computed again give the bits of those that are kept") {
  const auto gradients = [](bool recompute) {
    const auto net = tiny::network();
    cf::set_trainable(*net, true);
    const Tensor v = tiny::velocity(cf::flux::Model(net, 3.5, {.recompute = recompute}));
    v.square().mean().backward();
    std::vector<Tensor> all{v.detach()};
    for (const Tensor& parameter : net->parameters()) all.push_back(parameter.grad());
    return all;
  };
  const auto kept = gradients(false), again = gradients(true);
  REQUIRE(kept.size() == again.size());
  for (std::size_t i = 0; i < kept.size(); ++i) CHECK(relative_distance(again[i], kept[i]) < 1e-6);
}

TEST_CASE("a clone has the values and weights of its own") {
  cf::flux::Model model(tiny::network(), 2);
  const cf::flux::Model copy = model.clone();
  const Tensor before = tiny::velocity(model);
  CHECK(copy.guidance() == 2);
  CHECK(same_bits(tiny::velocity(copy), before));
  for (Tensor& parameter : model.module()->parameters()) parameter.set_data(parameter * 2);
  CHECK(same_bits(tiny::velocity(copy), before));
}

TEST_CASE("in float16 a sequence stays within what it holds") {
  const auto net = tiny::network();
  Tensor(cf::named_weights(*net).at("single_transformer_blocks.0.proj_out.bias"))
      .set_data(at::full({16}, 6e4));
  cf::move_weights(*net, {.dtype = at::kHalf});
  const Tensor x = floats({1, 6, 16}).to(at::kHalf), embedding = at::full({1, 16}, 4, x.options());
  const auto table = net->rotations(0, cf::flux::image_positions(2, 3));
  const Tensor y = net->single_blocks()[0]->forward(x, embedding, table);
  CHECK(y.isfinite().all().item<bool>());
  CHECK(y.abs().max().item<double>() == 65504);
}

TEST_CASE("the usual adapters are on twelve layers of a block, and three of a block of one") {
  const auto net = tiny::network();
  cf::set_trainable(*net, false);
  cf::Lora lora(net);
  cf::Generator generator = cf::seeded(3);
  lora.add("new", cf::flux::lora_options(), generator);
  CHECK(lora.tensors("new").size() == 2 * (2 * 12 + 2 * 3));
  const Tensor before = tiny::velocity(cf::flux::Model(net));
  lora.use("new");
  CHECK(same_bits(tiny::velocity(cf::flux::Model(net)), before));
  lora.set_trainable("new", true);
  tiny::velocity(cf::flux::Model(net)).square().sum().backward();
  for (const auto& [name, tensor] : lora.tensors("new")) {
    INFO(name);
    REQUIRE(tensor.grad().defined());
    // A moves nothing while B is zero.
    CHECK((tensor.grad().abs().max().item<double>() > 0) == name.ends_with("lora_B.weight"));
  }
  for (const Tensor& parameter : net->parameters()) CHECK_FALSE(parameter.grad().defined());
}

TEST_CASE("what does not fit is named") {
  const auto net = tiny::network();
  cf::flux::Model model(net);
  const tiny::Input in = tiny::input();
  const auto call = [&](const Tensor& x_t, const Tensor& t, const cf::TextCondition& condition) {
    model(x_t, t, condition);
  };
  check_error([&] { call(floats({2, 4, 3, 6}), in.t, in.condition); }, "latents", "H and W even");
  check_error([&] { call(floats({2, 3, 4, 6}), in.t, in.condition); }, "tokens", "[B, N, 16]");
  check_error([&] { call(in.x_t, at::ones({3}), in.condition); }, "t", "[2]");
  check_error([&] { call(in.x_t, in.t, tiny::input(3).condition); }, "condition", "got 3");
  check_error(
      [&] {
        call(in.x_t, in.t, {floats({2, 5, 13}), in.condition.pooled});
      },
      "condition.sequence", "[B, N, 12]");
  check_error(
      [&] {
        call(in.x_t, in.t, {in.condition.sequence, floats({2, 9})});
      },
      "condition.pooled", "[B, 10]");
  const Tensor tokens = cf::flux::packed(in.x_t), positions = cf::flux::image_positions(2, 3);
  check_error(
      [&] {
        net->forward(tokens, in.condition, {in.t, {}, positions});
      },
      "guidance", "[2]");
  check_error(
      [&] {
        net->forward(tokens, in.condition, {in.t, in.t, positions.narrow(0, 0, 5)});
      },
      "positions", "[6, 3]");
  check_error(
      [&] {
        net->forward(tokens, in.condition, {in.t, in.t, positions.narrow(1, 0, 2)});
      },
      "positions", "3]");
  cf::FluxOptions odd = tiny::options();
  odd.axes_dims_rope = {2, 3, 3};
  check_error([&] { cf::FluxNetwork{odd}; }, "axes_dims_rope", "even");
  odd.axes_dims_rope = {2, 2, 2};
  check_error([&] { cf::FluxNetwork{odd}; }, "axes_dims_rope", "got 6");
  odd = tiny::options();
  odd.out_channels = 8;
  check_error([&] { cf::flux::Model(std::make_shared<cf::FluxNetwork>(odd)); }, "out_channels",
              "got 8");
  check_error([&] { cf::rotary_table(positions, {2, 2}); }, "positions", "[N, 2]");
}
