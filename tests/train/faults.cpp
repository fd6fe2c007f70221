// What goes wrong in a run: missing scores, losses that are not finite, bad input.

#include <atomic>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <unistd.h>

#include <contraflow/objective/regression.hpp>
#include <contraflow/train/offline.hpp>

#include "archetypes/models.hpp"
#include "laws/errors.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using cf::Role;
using cf::Tensor;
using laws::check_error;
using small::same_bits;
using small::state_of;

namespace {

const double no_score = std::nan("");

// Keeps the warnings of a run.
struct Listener {
  std::vector<cf::Warning>* warnings;
  void operator()(const cf::EpochReport&) {}
  void warn(const cf::Warning& warning) { warnings->push_back(warning); }
};

// The reward of small runs with some scores replaced.
struct Spoilt {
  std::vector<std::int64_t> missing;
  double by = no_score;
  Tensor operator()(const Tensor& x0) const {
    Tensor scores = small::reward()(x0);
    for (const std::int64_t i : missing) scores[i] = by;
    return scores;
  }
};

template <class R, class O = cf::Nft>
auto trainer_of(R reward, O objective = {}, const small::Options& options = small::options()) {
  return small::trainer(small::policy(), cf::FlowSde{}, std::move(reward), std::move(objective),
                        options);
}

// A term whose loss, or gradient only, is not finite at some of its calls.
struct Fragile {
  using Velocities = cf::Roles<Role::current>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "fragile";
  int* calls;
  int bad_call;
  bool in_gradient = false;

  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, cf::Statistics&) const {
    const Tensor v = cf::velocity<Role::current>(batch);
    const Tensor loss = cf::mean_per_sample(v.square());
    if (++*calls != bad_call) return loss;
    // The root of 0 has the value 0 and no finite slope.
    if (in_gradient) return loss + cf::mean_per_sample((v * 0).square().sqrt());
    return loss * no_score;
  }
};

}  // namespace

TEST_CASE("samples without a finite score are masked, counted and not trained on") {
  for (const double bad : {no_score, std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity()}) {
    auto trainer = trainer_of(Spoilt{{0, 5, 11}, bad});
    const cf::EpochReport report = trainer.run_epoch();
    CHECK(report.find("reward/masked") == 3);
    CHECK(std::isfinite(*report.find("reward/mean")));
    CHECK(std::isfinite(*report.find("score/reward")));
    CHECK(report.backward_evaluations == 9 * 4);
    CHECK(report.find("skipped_steps") == 0);
    CHECK(small::is_finite(state_of(trainer)));
  }
}

TEST_CASE("a sample is masked if any of its scores is missing") {
  auto trainer = trainer_of(
      cf::rewards("a"_r = Spoilt{{1, 2}}, "b"_r = Spoilt{{2, 3}}, "c"_r = small::reward()));
  CHECK(trainer.run_epoch().find("reward/masked") == 3);
}

TEST_CASE("masked samples do not shift the scores of the others") {
  // With the first group masked the rest must be trained as if it were alone: pairs show it, since
  // they are found by score.
  std::vector<double> best;
  struct Watch : cf::Dpo {
    std::vector<double>* best;
    Tensor pairs(const cf::Scores& scores) const {
      CHECK(at::equal(scores.group, at::tensor({1, 1, 1, 2, 2, 2, 2}, at::kLong)));
      const Tensor found = cf::Dpo::pairs(scores);
      for (std::int64_t i = 0; i < found.size(0); ++i) {
        best->push_back(scores.reward[found[i][0]].item<double>());
      }
      return found;
    }
    Tensor loss(const cf::ForwardBatch<Velocities>& batch, const Tensor& signal,
                cf::Statistics& statistics) const {
      const Tensor score = small::reward()(batch.x0).view({-1, 2});
      CHECK((score.select(1, 0) > score.select(1, 1)).all().item<bool>());
      return cf::Dpo::loss(batch, signal, statistics);
    }
  };
  auto trainer = trainer_of(Spoilt{{0, 1, 2, 3, 6}}, Watch{{}, &best});
  const cf::EpochReport report = trainer.run_epoch();
  CHECK(best.size() == 2);
  CHECK(report.gradient_steps == 1);
}

TEST_CASE("an epoch without any score trains nothing, warns, and the run goes on") {
  bool broken = true;
  const auto reward = [&](const Tensor& x0) {
    return broken ? at::full({x0.size(0)}, no_score) : small::reward()(x0);
  };
  auto trainer = trainer_of(reward);
  const small::State before = state_of(trainer);
  std::vector<cf::Warning> warnings;
  const cf::RunReport report = trainer.run(1, Listener{&warnings});
  CHECK(report.epochs == 1);
  CHECK(report.last.find("reward/masked") == 12);
  CHECK_FALSE(report.last.find("reward/mean").has_value());
  CHECK_FALSE(report.last.find("score/reward").has_value());
  CHECK_FALSE(report.last.find("loss").has_value());
  CHECK(same_bits(state_of(trainer), before));
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].quantity == "reward/masked");
  CHECK(warnings[0].value == 12);
  broken = false;
  CHECK(trainer.run(2).last.gradient_steps == 1);
  CHECK_FALSE(same_bits(state_of(trainer), before));
}

TEST_CASE("a run whose reward is gone ends, with the reason") {
  auto options = small::options();
  const auto away = [](const Tensor&) -> Tensor { throw std::runtime_error("out of paper"); };
  const cf::RunReport report = trainer_of(away, cf::Nft{}, options).run(60);
  CHECK(report.epochs == 5);
  CHECK(report.stopped);
  CHECK(report.reason ==
        "no sample has had a score in 5 epochs; the last failure: reward: out of paper");
  // Another number, or none.
  options.learning.most_unscored_epochs = 2;
  CHECK(trainer_of(away, cf::Nft{}, options).run(60).epochs == 2);
  options.learning.most_unscored_epochs = 0;
  CHECK(trainer_of(away, cf::Nft{}, options).run(9).epochs == 9);
  options.learning.most_unscored_epochs = -1;
  check_error([&] { trainer_of(away, cf::Nft{}, options); }, "most_unscored_epochs", "got -1");
  // A judge that comes back in time is no reason.
  options.learning.most_unscored_epochs = 3;
  const auto calls = std::make_shared<int>(0);
  const auto unsteady = [calls](const Tensor& x0) -> Tensor {
    if (++*calls % 3 != 0) throw std::runtime_error("busy");
    return small::reward()(x0);
  };
  CHECK(trainer_of(unsteady, cf::Nft{}, options).run(9).epochs == 9);
}

TEST_CASE("a reward that throws is a warning in its own words") {
  for (const bool asynchronous : {false, true}) {
    small::Options options = small::options();
    options.collection.rollout_batch = 4;
    options.collection.asynchronous_scoring = asynchronous;
    auto calls = std::make_shared<std::atomic<int>>(0);
    const auto reward = [calls](const Tensor& x0) -> Tensor {
      if (x0.size(0) == 4 && calls->fetch_add(1) == 1) throw std::runtime_error("no answer");
      return small::reward()(x0);
    };
    auto trainer = trainer_of(cf::rewards("far"_r = reward), cf::Nft{}, options);
    std::vector<cf::Warning> warnings;
    const cf::RunReport report = trainer.run(2, Listener{&warnings});
    CHECK(report.epochs == 2);
    REQUIRE(warnings.size() == 1);
    CHECK(warnings[0].quantity == "reward/failure");
    CHECK(warnings[0].message == "far: no answer");
    CHECK(report.last.gradient_steps == 2);
    CHECK(report.last.find("reward/masked") == 0);
    CHECK(report.last.backward_evaluations == (8 + 12) * 4);
  }
}

namespace {
// What a piece of code writes to the standard output and error, byte for byte.
template <class F>
long bytes_written(F&& f) {
  std::FILE* file = std::tmpfile();
  REQUIRE(file != nullptr);
  std::fflush(nullptr);
  const int out = dup(1), err = dup(2);
  dup2(fileno(file), 1);
  dup2(fileno(file), 2);
  f();
  std::fflush(nullptr);
  dup2(out, 1);
  dup2(err, 2);
  close(out);
  close(err);
  const long end = lseek(fileno(file), 0, SEEK_END);
  std::fclose(file);
  return end;
}
}  // namespace

TEST_CASE("the library prints nothing, whatever goes wrong") {
  CHECK(bytes_written([] { std::puts("so it can be seen"); }) > 0);
  CHECK(bytes_written([] {
          int calls = 0;
          const auto away = [](const Tensor&) -> Tensor { throw std::runtime_error("away"); };
          trainer_of(away).run(2);
          trainer_of(Spoilt{{1, 2}}, Fragile{&calls, 1}).run(2);
        }) == 0);
}

TEST_CASE("an evaluation masks and counts as well") {
  auto some = trainer_of(Spoilt{{0, 3}});
  const cf::Evaluation evaluation = some.evaluate();
  CHECK(evaluation.masked == 2);
  CHECK(std::isfinite(evaluation.reward));
  auto none = trainer_of([](const Tensor& x0) { return at::full({x0.size(0)}, no_score); });
  CHECK(none.evaluate().masked == 16);
}

TEST_CASE("a step whose loss or gradient is not finite is skipped and counted") {
  for (const bool in_gradient : {false, true}) {
    INFO("in the gradient only: " << in_gradient);
    int calls = 0;
    small::Options options = small::options();
    options.learning.gradient_steps = 3;
    auto trainer = trainer_of(small::reward(), Fragile{&calls, 2, in_gradient}, options);
    const cf::EpochReport report = trainer.run_epoch();
    CHECK(calls == 3);
    CHECK(report.find("skipped_steps") == 1);
    CHECK(report.gradient_steps == 2);
    CHECK(std::isfinite(*report.find("loss")));
    CHECK(std::isfinite(*report.find("gradient_norm")));
    CHECK(small::is_finite(state_of(trainer)));
    const cf::EpochReport next = trainer.run_epoch();
    CHECK(next.find("skipped_steps") == 0);
    CHECK(next.gradient_steps == 5);
  }
}

TEST_CASE("a skipped step leaves every weight and the optimiser as they were") {
  int calls = 0;
  auto trainer = trainer_of(small::reward(), Fragile{&calls, 1});
  const small::State before = state_of(trainer);
  const cf::EpochReport report = trainer.run_epoch();
  CHECK(report.find("skipped_steps") == 1);
  CHECK(report.gradient_steps == 0);
  CHECK(same_bits(state_of(trainer), before));
  CHECK(trainer.optimizer().state().empty());
}

TEST_CASE("options out of range are refused by name") {
  const auto with = [](auto change) {
    return [=] {
      small::Options options = small::options();
      change(options);
      trainer_of(small::reward(), cf::Nft{}, options);
    };
  };
  check_error(with([](auto& o) { o.collection.prompts_per_epoch = 0; }), "prompts_per_epoch",
              "got 0");
  check_error(with([](auto& o) { o.collection.group_size = 1; }), "group_size", "at least 2");
  check_error(with([](auto& o) { o.collection.rollout_batch = -1; }), "rollout_batch",
              "at least 0");
  check_error(with([](auto& o) { o.evaluation.samples = 0; }), "samples", "at least 1");
  check_error(with([](auto& o) { o.evaluation.every = -1; }), "every", "at least 0");
  check_error(with([](auto& o) { o.evaluation.batch = -1; }), "batch", "at least 0");
  check_error(with([](auto& o) { o.learning.gradient_steps = 0; }), "gradient_steps", "at least 1");
  check_error(with([](auto& o) { o.learning.inner_epochs = 0; }), "inner_epochs", "at least 1");
  check_error(with([](auto& o) { o.optimization.micro_batch = -1; }), "micro_batch", "at least 0");
  check_error(with([](auto& o) { o.optimization.max_gradient_norm = -1; }), "max_gradient_norm",
              "at least 0");
  const auto with_transitions = [](const cf::RecordedTransitions& transitions) {
    return [=] {
      small::Options options = small::options();
      options.transitions = transitions;
      trainer_of(small::reward(), cf::Grpo{}, options);
    };
  };
  check_error(with_transitions({.fraction = 0}), "fraction", "(0, 1]");
  check_error(with_transitions({.fraction = 1.1}), "fraction", "(0, 1]");
  check_error(with_transitions({.per_sample = -1}), "per_sample", "at least 0");
  check_error([] { cf::adamw({.learning_rate = 0}); }, "learning_rate", "above 0");
}

TEST_CASE("what a run cannot work with is refused by name") {
  check_error(
      [] {
        auto trainer = small::trainer(cf::SnapshotPolicy(archetypes::PlainModel(2)), cf::Euler{},
                                      small::reward(), cf::Nft{}, small::options());
      },
      "sample_shape", "nothing");
  check_error(
      [] {
        const cf::MlpVelocity frozen = small::model();
        for (const Tensor& p : frozen->parameters()) Tensor(p).set_requires_grad(false);
        auto trainer = small::trainer(cf::SnapshotPolicy{frozen}, cf::Euler{}, small::reward(),
                                      cf::Nft{}, small::options());
      },
      "policy", "at least one parameter");
  check_error(
      [] {
        auto trainer = small::trainer(small::policy(), cf::FlowSde{.noise_level = 0},
                                      small::reward(), cf::Grpo{}, small::options());
        trainer.run_epoch();
      },
      "solver", "stochastic step");
  check_error([] { trainer_of(small::reward(), cf::Nft{.beta = 0}).run_epoch(); }, "beta",
              "above 0");
  check_error(
      [] {
        small::Options options = small::options();
        options.collection.sample_shape = {3};
        trainer_of(small::reward(), cf::Nft{}, options).run_epoch();
      },
      "x_t", "[12, 3]");
  check_error([] { cf::PromptRows<Tensor> none(at::zeros({0, 4})); }, "rows", "at least one");
  check_error([] { cf::class_prompts(0); }, "rows", "at least one");
}

namespace {
// Prompts that give one row too few.
struct ShortPrompts {
  std::int64_t size() const { return 5; }
  Tensor condition(const Tensor& ids) const {
    return at::zeros({std::max<std::int64_t>(ids.numel() - 1, 0)}, at::kLong);
  }
};
// Times that are none.
struct LateTimes {
  Tensor operator()(std::int64_t units, const cf::TimeGrid&, cf::Generator&) const {
    return at::full({units, 1}, 1.25);
  }
};
}  // namespace

TEST_CASE("components that break their laws are found out") {
  check_error(
      [] {
        auto trainer = small::trainer(
            cf::SnapshotPolicy(cf::MlpVelocity({.width = 8, .classes = 5})), cf::Euler{},
            small::reward(), cf::Nft{}, small::options(), ShortPrompts{});
        trainer.run_epoch();
      },
      "condition", "got 11");
  check_error(
      [] {
        small::Options options = small::options();
        options.forward.times = LateTimes{};
        trainer_of(small::reward(), cf::Nft{}, options).run_epoch();
      },
      "t", "[0, 1], got 1.25");
}

TEST_CASE("stored samples: missing scores are counted, and what does not fit is refused") {
  const Tensor x0 = laws::floats({9, 2});
  Tensor reward = laws::doubles({9}, 2);
  const Tensor prompt = at::tensor({0, 0, 0, 0, 0, 1, 1, 1, 1}, at::kLong);
  reward[2] = no_score;
  reward[7] = std::numeric_limits<double>::infinity();
  cf::OfflineTrainer trainer(small::policy(), {x0, reward, prompt}, cf::Nft{});
  const cf::RunReport report = trainer.run(3);
  CHECK(report.epochs == 3);
  CHECK(report.last.find("reward/masked") == 2);
  CHECK(report.last.backward_evaluations == 3 * 7);

  const auto with = [](const cf::StoredSamples& samples) {
    return [=] { cf::OfflineTrainer give(small::policy(), samples, cf::Nft{}); };
  };
  check_error(with({Tensor(), reward, prompt}), "x0", "nothing");
  check_error(with({at::zeros({0, 2}), reward, prompt}), "x0", "non-empty");
  check_error(with({x0, reward.slice(0, 1), prompt}), "reward", "[9], got [8]");
  check_error(with({x0, reward, prompt.slice(0, 2)}), "prompt", "[9], got [7]");
  check_error(with({x0, at::full({9}, no_score), prompt}), "reward", "finite");
  check_error([] { cf::good_and_bad(at::zeros({0, 2}), at::zeros({1, 2})); }, "good", "non-empty");
  check_error([] { cf::good_and_bad(at::zeros({1, 2}), at::zeros({1}, at::kLong)); }, "bad", "[1]");
  check_error([] { cf::good_and_bad(at::zeros({2, 2}), at::zeros({2, 3})); }, "bad", "[2, 3]");
}
