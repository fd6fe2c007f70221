// The model of words: laws of models, the first velocity, what it sees of a word, training.

#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/toy/word_captions.hpp>
#include <contraflow/toy/word_flow.hpp>

#include "laws/errors.hpp"
#include "laws/model.hpp"

namespace cf = contraflow;
namespace words = contraflow::toy::words;
using cf::Tensor;
using cf::toy::WordFlow;
using laws::check_error;
using laws::relative_distance;
using laws::same_bits;

namespace {

// Layers this small are slower on several threads, by far where other programs run.
const bool one_thread = (at::set_num_threads(1), true);

WordFlow small() { return WordFlow({.layers = 2, .heads = 2, .head_size = 16, .text_size = 32}); }

// No part is hidden by the zeros of the beginning.
WordFlow moved(WordFlow model = small()) {
  const at::NoGradGuard no_gradient;
  cf::Generator generator = cf::seeded(3);
  for (const Tensor& p : model.module()->parameters()) {
    Tensor(p).add_(0.1 * cf::normal_like(p, generator));
  }
  return model;
}

Tensor samples(std::int64_t count) { return laws::floats({count, 1, 16, 48}, 2); }

Tensor velocity(WordFlow model, const Tensor& tokens) {
  const Tensor x = samples(1).expand({tokens.size(0), 1, 16, 48});
  return model(x, at::full({tokens.size(0)}, 0.4), tokens).detach();
}

}  // namespace

TEST_CASE("the model of words keeps the laws of models under prompts") {
  WordFlow model = moved();
  const Tensor tokens = words::tokens_of({"CAT", "TREE", "HOUSE", "ACT", "ZOO"});
  laws::flow_model(model, samples(5), tokens);
  laws::trainable_model(model, samples(5), tokens);
  CHECK(cf::sample_shape_of(model) == std::vector<std::int64_t>{1, 16, 48});
}

TEST_CASE("a velocity of words begins at zero, and depends on each letter and on their order") {
  CHECK(velocity(small(), words::tokens_of({"CAT"})).eq(0).all().item<bool>());
  const WordFlow model = moved();
  const auto differ = [&](const std::string& a, const Tensor& b) {
    const Tensor both = velocity(model, at::cat({words::tokens_of({a}), b}));
    return relative_distance(both[0], both[1]);
  };
  CHECK(differ("CAT", words::tokens_of({"CAT"})) < 1e-6);
  for (const char* other : {"BAT", "COT", "CAR", "CATS", "ACT"}) {
    INFO(other);
    CHECK(differ("CAT", words::tokens_of({other})) > 1e-3);
  }
  CHECK(differ("CAT", words::null_prompt()) > 1e-3);
}

TEST_CASE("a clone of the model of words has weights of its own, and they come from its seed") {
  const WordFlow model = moved(), copy = model, clone = model.clone();
  const Tensor tokens = words::tokens_of({"CAT"}), before = velocity(model, tokens);
  moved(copy);
  CHECK_FALSE(at::equal(velocity(model, tokens), before));
  CHECK(same_bits(velocity(clone, tokens), before));
  const auto first = [](std::uint64_t seed) {
    const WordFlow flow({.layers = 1, .heads = 1, .head_size = 8, .text_size = 8}, seed);
    std::vector<Tensor> flat;
    for (const Tensor& p : flow.module()->parameters()) flat.push_back(p.detach().flatten());
    return at::cat(flat);
  };
  CHECK(same_bits(first(1), first(1)));
  CHECK_FALSE(at::equal(first(1), first(2)));
}

TEST_CASE("the model of words refuses what is no word") {
  WordFlow model = small();
  const Tensor x = samples(2), t = at::full({2}, 0.5), tokens = words::tokens_of({"CAT", "DOG"});
  const auto call = [&](const Tensor& condition) {
    return [&, condition] { model(x, t, condition); };
  };
  check_error(call(tokens.narrow(1, 0, 4)), "condition", "shape [B, 5], got [2, 4]");
  check_error(call(tokens.to(at::kFloat)), "condition", "got Float");
  check_error(call(tokens + 25), "condition", "tokens in [0, 28), got 45");
  check_error([&] { model(at::zeros({2, 1, 48}), t, tokens); }, "x_t", "[2, 1, 48]");
  check_error([] { WordFlow none({.layers = 0}); }, "layers", "at least 1");
  check_error([] { WordFlow none({.heads = 0}); }, "heads", "at least 1");
  check_error([] { WordFlow none({.head_size = 0}); }, "head_size", "at least 1");
  check_error([] { WordFlow none({.text_size = 0}); }, "text_size", "at least 1");
  check_error([] { WordFlow none({.patch_size = 5}); }, "patch_size", "a divisor of 16, got 5");
}

TEST_CASE("pre-training lowers the loss of the model of words") {
  const words::Glyphs glyphs = words::read_glyphs(CONTRAFLOW_WORDS_GLYPHS);
  const words::CaptionedWords data(glyphs, words::tokens_of({"CAT", "DOG", "HOUSE"}),
                                   {.fonts = 1, .anywhere = false});
  WordFlow model = small();
  std::vector<double> losses;
  const auto note = [&](const cf::EpochReport& r) { losses.push_back(*r.find("loss")); };
  cf::pretrain(model, data, cf::Pretraining{.steps = 60, .batch = 16, .report_every = 10}, note);
  REQUIRE(losses.size() == 6);
  CHECK(losses.back() < 0.8 * losses.front());
}
