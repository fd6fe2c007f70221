// The model of scenes: laws of models, the first velocity, what it sees of a prompt, training.

#include <cmath>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/toy/scene_captions.hpp>
#include <contraflow/toy/scene_flow.hpp>

#include "laws/errors.hpp"
#include "laws/model.hpp"

namespace cf = contraflow;
namespace scenes = contraflow::toy::scenes;
using cf::Tensor;
using cf::toy::SceneFlow;
using laws::check_error;
using laws::relative_distance;
using laws::same_bits;

namespace {

// Layers this small are slower on several threads, by far where other programs run.
const bool one_thread = (at::set_num_threads(1), true);

// No part is hidden by the zeros of the beginning.
SceneFlow moved(SceneFlow model = SceneFlow({.layers = 2, .head_size = 16, .text_size = 32})) {
  const at::NoGradGuard no_gradient;
  cf::Generator generator = cf::seeded(3);
  for (const Tensor& p : model.module()->parameters()) {
    Tensor(p).add_(0.1 * cf::normal_like(p, generator));
  }
  return model;
}

Tensor tokens_of(std::int64_t first, std::int64_t count) {
  return scenes::catalogue().all_tokens().narrow(0, first, count);
}
Tensor samples(std::int64_t count = 5) { return laws::floats({count, 8, 4, 4}, 2); }

Tensor velocity(SceneFlow model, const Tensor& tokens, double t = 0.4) {
  const Tensor x = samples(1).expand({tokens.size(0), 8, 4, 4});
  return model(x, at::full({tokens.size(0)}, t), tokens).detach();
}

// The tokens of "a red circle and a blue square" and such.
Tensor prompt(const std::vector<const char*>& words) {
  Tensor row = at::full({1, scenes::tokens}, scenes::pad_token, at::kLong);
  for (std::size_t i = 0; i < words.size(); ++i) {
    for (std::size_t k = 0; k < scenes::vocabulary.size(); ++k) {
      if (std::string(scenes::vocabulary[k]) == words[i]) row[0][std::int64_t(i)] = std::int64_t(k);
    }
  }
  const Tensor known = (scenes::catalogue().all_tokens() == row).all(1);
  CHECK(known.sum().item<std::int64_t>() == 1);
  return row;
}

std::int64_t weights(const SceneFlow& model) {
  std::int64_t count = 0;
  for (const Tensor& parameter : model.module()->parameters()) count += parameter.numel();
  return count;
}

}  // namespace

TEST_CASE("the model of scenes keeps the laws of models under prompts") {
  SceneFlow model = moved();
  // Prompts of several categories.
  const Tensor tokens = scenes::catalogue().all_tokens().slice(0, 0, 464, 100);
  laws::flow_model(model, samples(), tokens);
  laws::trainable_model(model, samples(), tokens);
  CHECK(cf::sample_shape_of(model) == std::vector<std::int64_t>{8, 4, 4});
  SceneFlow whole = moved(SceneFlow());
  laws::flow_model(whole, samples(), tokens);
}

TEST_CASE("the velocity of scenes has the shape and dtype of the samples") {
  SceneFlow model = moved();
  const Tensor x = samples(3), t = at::full({3}, 0.5), tokens = tokens_of(10, 3);
  const Tensor v = model(x, t, tokens);
  CHECK(v.sizes() == x.sizes());
  const Tensor wide = model(x.to(at::kDouble), t, tokens);
  CHECK(wide.scalar_type() == at::kDouble);
  CHECK(relative_distance(wide, v) < 1e-6);
}

TEST_CASE("the model of scenes has 0.46 million weights") {
  CHECK(std::abs(double(weights(SceneFlow())) - 0.46e6) < 0.005e6);
}

TEST_CASE("the velocity of scenes begins at zero, and a gradient step moves it") {
  SceneFlow model;
  const Tensor tokens = tokens_of(50, 5), x = samples();
  const Tensor t = at::linspace(0, 1, 5);
  CHECK(model(x, t, tokens).eq(0).all().item<bool>());
  model(x, t, tokens).sub(x).square().sum().backward();
  double norm = 0;
  {
    const at::NoGradGuard no_gradient;
    for (const Tensor& p : model.module()->parameters()) {
      if (!p.grad().defined()) continue;
      norm += p.grad().norm().item<double>();
      Tensor(p).sub_(p.grad(), 1e-4);
    }
  }
  CHECK(norm > 0);
  CHECK(model(x, t, tokens).abs().max().item<double>() > 0);
}

// With gates of zero, as of Peebles and Xie, these would have no gradient until the gates open.
TEST_CASE("only what lies behind the last layer waits for it") {
  SceneFlow model;
  {
    // As after one step: the last layer is not zero, all else is as it begins.
    const at::NoGradGuard no_gradient;
    cf::Generator generator = cf::seeded(4);
    for (const auto& item : model.module()->named_parameters()) {
      if (item.key().find("proj_out") == std::string::npos) continue;
      Tensor(item.value()).copy_(cf::normal_like(item.value(), generator));
    }
  }
  model(samples(), at::linspace(0.1, 0.9, 5), tokens_of(100, 5)).square().sum().backward();
  for (const auto& item : model.module()->named_parameters()) {
    const std::string& name = item.key();
    // The text ends at the last block: its queries there are not needed.
    if (name.find("2.attn.add_q_proj") != std::string::npos ||
        name.find("2.attn.norm_added_q") != std::string::npos) {
      continue;
    }
    // What the modulations are made of waits for them.
    if (name.find("time_text_embed") != std::string::npos) continue;
    INFO(name);
    REQUIRE(item.value().grad().defined());
    CHECK(item.value().grad().norm().item<double>() > 0);
  }
}

TEST_CASE("a velocity of scenes depends on the prompt and on the order of its words") {
  const SceneFlow model = moved();
  const auto differ = [&](const Tensor& a, const Tensor& b) {
    const Tensor both = velocity(model, at::cat({a, b}));
    return relative_distance(both[0], both[1]);
  };
  const Tensor asked = prompt({"a", "red", "circle", "and", "a", "blue", "square"});
  CHECK(differ(asked, asked) < 1e-6);
  CHECK(differ(asked, prompt({"a", "red", "circle", "and", "a", "green", "square"})) > 1e-3);
  CHECK(differ(asked, scenes::null_prompt()) > 1e-3);
  // The same words, bound otherwise.
  CHECK(differ(asked, prompt({"a", "blue", "circle", "and", "a", "red", "square"})) > 1e-3);
  CHECK(differ(prompt({"a", "circle", "left", "and", "a", "cross", "right"}),
               prompt({"a", "circle", "right", "and", "a", "cross", "left"})) > 1e-3);
  CHECK(relative_distance(velocity(model, asked, 0.41), velocity(model, asked, 0.4)) > 1e-4);
}

TEST_CASE("a velocity of scenes knows where a cell is") {
  // Samples that are shifted by a cell do not have velocities that are.
  SceneFlow model = moved();
  const Tensor x = samples(1), t = at::full({1}, 0.5), tokens = tokens_of(7, 1);
  const Tensor shifted = model(x.roll(1, 3), t, tokens).roll(-1, 3);
  CHECK(relative_distance(shifted, model(x, t, tokens)) > 1e-3);
}

TEST_CASE("the weights of the model of scenes come from its seed, a clone's are its own") {
  const auto first = [](const SceneFlow& model) {
    std::vector<Tensor> flat;
    for (const Tensor& p : model.module()->parameters()) flat.push_back(p.detach().flatten());
    return at::cat(flat);
  };
  CHECK(same_bits(first(SceneFlow({}, 1)), first(SceneFlow({}, 1))));
  CHECK_FALSE(at::equal(first(SceneFlow({}, 1)), first(SceneFlow({}, 2))));
  const SceneFlow model = moved(), copy = model, clone = model.clone();
  const Tensor tokens = tokens_of(0, 2), before = velocity(model, tokens);
  CHECK(same_bits(velocity(clone, tokens), before));
  moved(copy);
  CHECK_FALSE(at::equal(velocity(model, tokens), before));
  CHECK(same_bits(velocity(clone, tokens), before));
}

TEST_CASE("the model of scenes refuses what is no prompt") {
  SceneFlow model({.layers = 1, .head_size = 8, .text_size = 8});
  const Tensor x = samples(2), t = at::full({2}, 0.5), tokens = tokens_of(0, 2);
  const auto call = [&](const Tensor& condition) {
    return [&, condition] { model(x, t, condition); };
  };
  check_error(call(tokens.narrow(1, 0, 7)), "condition", "shape [B, 8], got [2, 7]");
  check_error(call(tokens[0]), "condition", "got [8]");
  check_error(call(tokens.to(at::kInt)), "condition", "dtype Long, got Int");
  check_error(call(tokens.to(at::kFloat)), "condition", "got Float");
  Tensor unknown = tokens.clone();
  unknown[1][3] = 22;
  check_error(call(unknown), "condition", "tokens in [0, 22), got 22");
  unknown[1][3] = -1;
  check_error(call(unknown), "condition", "got -1");
  check_error(call(tokens_of(0, 3)), "condition", "got 3");
  check_error([&] { model(at::zeros({2, 8, 4}), t, tokens); }, "x_t", "[2, 8, 4]");
  check_error([&] { model(at::zeros({2, 7, 4, 4}), t, tokens); }, "x_t", "[2, 7, 4, 4]");
  check_error([] { SceneFlow none({.layers = 0}); }, "layers", "at least 1");
  check_error([] { SceneFlow none({.heads = 0}); }, "heads", "at least 1");
  check_error([] { SceneFlow none({.head_size = 0}); }, "head_size", "at least 1");
  check_error([] { SceneFlow none({.text_size = 0}); }, "text_size", "at least 1");
}

TEST_CASE("pre-training lowers the loss of the model of scenes") {
  cf::Generator generator = cf::seeded(1);
  const scenes::CaptionedData data{scenes::draw_captioned(
      {scenes::Category::single, scenes::Category::colours}, 100, generator)};
  SceneFlow model({.layers = 2, .head_size = 16, .text_size = 32});
  std::vector<double> losses;
  const auto note = [&](const cf::EpochReport& r) { losses.push_back(*r.find("loss")); };
  cf::pretrain(model, data, cf::Pretraining{.steps = 60, .batch = 32, .report_every = 10}, note);
  REQUIRE(losses.size() == 6);
  CHECK(losses.back() < 0.8 * losses.front());
}
