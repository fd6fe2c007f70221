// Samples of an older policy, corrected for.

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/distributed/team.hpp>

#include "laws/errors.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;
using laws::relative_distance;

namespace {

// Grpo with a range that clips nothing here.
const cf::Grpo wide{.clip_range = 0.9};
const cf::Importance by_step{.over = cf::ImportanceOver::step, .upper = 100};

// A collector whose transitions were made by somebody for whom they were less likely, by a factor
// each: `factor` for the first half of the samples, 1 for the others.
template <class Record>
struct Unlikely {
  double factor = 1;

  template <class P, class Prompts>
  cf::Rollout<Record> collect(const cf::CollectorContext<P, Prompts>& context) const {
    cf::Collection own = small::options().collection;
    own.sample_shape = {2};
    const cf::SolverCollector<cf::FlowSde, Record> collector(cf::FlowSde{}, own);
    auto rollout = collector.collect(context, cf::ProbeMade{});
    const std::int64_t half = rollout.size() / 2;
    rollout.record.log_prob.narrow(1, 0, half).sub_(std::log(factor));
    return rollout;
  }
};

template <class T>
Tensor weights_of(T& trainer) {
  std::vector<Tensor> all;
  for (const Tensor& weight : trainer.policy().parameters()) all.push_back(weight.flatten());
  return at::cat(all).detach().clone();
}

// How one step of plain descent moves the weights, and what was told of it.
struct Moved {
  Tensor by;
  cf::EpochReport report;
};
template <class O, class... More>
Moved moved(double factor, const O& objective, const More&... more) {
  using Record = cf::RecordOf<cf::Sum<O>>;
  cf::Optimization plain;
  plain.optimizer = small::descent(1);
  plain.max_gradient_norm = 0;
  cf::Trainer trainer(small::policy(), Unlikely<Record>{factor}, small::reward(), objective, plain,
                      cf::Seed{7}, more...);
  const Tensor before = weights_of(trainer);
  const cf::EpochReport report = trainer.run_epoch();
  return {weights_of(trainer) - before, report};
}
double told(const Moved& moved, const char* name) {
  const auto value = moved.report.find(name);
  REQUIRE(value.has_value());
  return *value;
}

}  // namespace

TEST_CASE("samples of today's policy need no correction") {
  const Moved plain = moved(1, wide);
  const Moved corrected = moved(1, wide, cf::RolloutCorrection{});
  CHECK(plain.by.norm().item<double>() > 1e-4);
  CHECK(relative_distance(corrected.by, plain.by) < 1e-3);
  CHECK(std::abs(told(corrected, "loss/stale_k1")) < 1e-5);
  CHECK(std::abs(told(corrected, "loss/stale_weight") - 1) < 1e-5);
  CHECK(told(corrected, "loss/stale_kept") == 1);
}

TEST_CASE("transitions that are more likely today count for more, by that factor") {
  // Importance weights times a ratio of 1 are what the plain ratios to who sampled come to, while
  // nothing is clipped: the same estimate, whose ratios are near 1 now.
  const Moved plain = moved(1.5, wide);
  const cf::RolloutCorrection correction{.importance = by_step};
  const Moved corrected = moved(1.5, wide, correction);
  CHECK(relative_distance(corrected.by, plain.by) < 1e-3);
  CHECK(relative_distance(corrected.by, moved(1, wide).by) > 0.05);
  CHECK(std::abs(told(corrected, "loss/stale_weight") - 1.25) < 1e-5);
  CHECK(std::abs(told(corrected, "loss/stale_k1") + 0.5 * std::log(1.5)) < 1e-5);
  // With a narrow range the plain ratios are clipped, of the corrected ones none is.
  CHECK(told(moved(1.5, cf::Grpo{}), "loss/clip_fraction") > 0.3);
  CHECK(told(moved(1.5, cf::Grpo{.clip_range = 1e-3}, correction), "loss/clip_fraction") == 0);
}

TEST_CASE("all policy gradients take the weights, and means are those of today") {
  const cf::RolloutCorrection correction{.importance = by_step};
  // Half of the samples count 1.5 times as much.
  const auto changed = [&](const auto& objective) {
    const Tensor fresh = moved(1, objective, cf::RolloutCorrection{}).by;
    const Tensor stale = moved(1.5, objective, correction).by;
    CHECK(fresh.norm().item<double>() > 0);
    return relative_distance(stale, fresh);
  };
  CHECK(changed(cf::GrpoGuard{}) > 0.05);
  CHECK(changed(cf::TempFlowGrpo{}) > 0.05);
  CHECK(changed(cf::FlowDppo{}) > 0.05);
  CHECK(changed(cf::Grpo{}) > 0.05);
}

TEST_CASE("stale transitions are rejected, in bypass too, and count in the mean") {
  for (const bool decoupled : {true, false}) {
    INFO("decoupled: " << decoupled);
    cf::RolloutCorrection correction{.decoupled = decoupled,
                                     .importance = {.over = cf::ImportanceOver::none},
                                     .rejections = {{.upper = 1.2, .lower = 0.8}}};
    const Moved some = moved(1.5, wide, correction);
    CHECK(told(some, "loss/stale_kept") == 0.5);
    CHECK(!some.report.find("loss/stale_weight"));
    correction.rejections = {{.upper = 1e-9, .lower = 1e-10}};
    CHECK(moved(1.5, wide, correction).by.norm().item<double>() == 0);
    correction.rejections = {{.upper = 2, .lower = 0.5}};
    CHECK(told(moved(1.5, wide, correction), "loss/stale_kept") == 1);
    // Of those that are left the gradient is what it was: they were made by today's policy.
    correction.rejections = {{.upper = 1.2, .lower = 0.8}};
    CHECK(relative_distance(some.by, moved(1000, wide, correction).by) < 1e-5);
  }
  cf::RolloutCorrection wrong{.rejections = {{.upper = 0.1, .lower = 0.5}}};
  laws::check_error([&] { moved(1, wide, wrong); }, "upper", "above lower");
}

TEST_CASE("weights are divided by their mean over all ranks") {
  cf::RolloutCorrection correction{.importance = by_step};
  const Tensor plain = moved(1.5, wide, correction).by;
  correction.importance.normalise = true;
  const Tensor normalised = moved(1.5, wide, correction).by;
  CHECK(relative_distance(normalised, plain / 1.25) < 1e-4);
  const auto sum = [](std::vector<double> values) { return at::tensor(values, at::kDouble); };
  cf::Team(2).run([&](const cf::TeamRank& rank) {
    const Tensor own = rank.rank() == 0 ? sum({1, 2, 6}) : sum({3});
    CHECK(cf::detail::mean_over_ranks(own, rank).item<double>() == 3);
  });
}

TEST_CASE("samples that were made ahead are stale, and a trainer corrects for them") {
  small::Options options = small::options();
  options.learning.gradient_steps = 2;
  auto trainer = small::trainer(small::policy(), cf::FlowSde{}, small::reward(), cf::Grpo{},
                                options, cf::Ahead{1}, cf::RolloutCorrection{});
  const cf::EpochReport first = trainer.run_epoch(), second = trainer.run_epoch();
  CHECK(std::abs(first.find("loss/stale_k3").value_or(1)) < 1e-6);
  CHECK(second.find("loss/stale_k3").value_or(0) > 1e-6);
  CHECK(second.find("staleness") == 2.0);
  CHECK(small::is_finite(small::state_of(trainer)));
  const auto count = [&](const auto&... more) {
    auto counted = small::trainer(small::policy(), cf::FlowSde{}, small::reward(), cf::Grpo{},
                                  options, more...);
    counted.run_epoch();
    return counted.evaluations().forward;
  };
  CHECK(count(cf::RolloutCorrection{}) == count() + 12 * 4);  // 12 samples, 4 recorded steps
}
