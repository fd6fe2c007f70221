// Which samples' scores count, and as what: abstentions, failures by group, odd rewards.

#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/distributed/team.hpp>
#include <contraflow/reward/list.hpp>

#include "laws/errors.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::FailedScore;
using cf::PartialScores;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;
using small::state_of;

namespace {

const double no_score = std::nan("");
const double infinity = std::numeric_limits<double>::infinity();

using Bag = cf::RewardList<cf::Unconditional>;
using Positions = std::vector<std::int64_t>;

Tensor flags(const Positions& positions, std::int64_t count) {
  const Tensor result = at::zeros({count}, at::kBool);
  for (const std::int64_t i : positions) result[i] = true;
  return result;
}

// A coordinate, of which some are missing and from some of which the reward abstains.
auto coordinate(std::int64_t which, Positions missing = {}, Positions abstained = {},
                double by = no_score) {
  return [=](const Tensor& x0) {
    const Tensor scores = x0.select(1, which).to(at::kDouble);
    return PartialScores{scores.masked_fill(flags(missing, x0.size(0)), by),
                         flags(abstained, x0.size(0))};
  };
}
template <class R>
Bag bag_of(R reward) {
  Bag bag;
  bag.add("a", std::move(reward));
  return bag;
}
template <class A, class B>
Bag bag_of(A a, B b, double weight = 1) {
  Bag bag = bag_of(std::move(a));
  bag.add("b", std::move(b), weight);
  return bag;
}

// GroupAdvantage that keeps the rewards it is given.
struct Watching {
  std::shared_ptr<std::vector<Tensor>> rewards = std::make_shared<std::vector<Tensor>>();
  Tensor operator()(const Tensor& reward, const Tensor& group) const {
    rewards->push_back(reward.clone());
    return cf::GroupAdvantage{}(reward, group);
  }
};

struct Listener {
  std::vector<cf::Warning>* warnings;
  void operator()(const cf::EpochReport&) {}
  void warn(const cf::Warning& warning) { warnings->push_back(warning); }
};

struct Run {
  cf::EpochReport report;
  small::State state;
  Tensor rewards;  ///< of the samples that counted, undefined without any
};

auto trainer_of(Bag bag, FailedScore failed = FailedScore::left_out, Watching watching = {},
                std::int64_t evaluated = 0) {
  small::Options options = small::options();
  options.evaluation.every = evaluated;
  return small::trainer(small::policy(), cf::Euler{}, std::move(bag), cf::Nft{}, options, watching,
                        cf::Scoring{.failed = failed});
}
Run run_of(Bag bag, FailedScore failed = FailedScore::left_out) {
  const Watching watching;
  auto trainer = trainer_of(std::move(bag), failed, watching);
  Run run{trainer.run_epoch(), state_of(trainer), {}};
  if (!watching.rewards->empty()) run.rewards = watching.rewards->back();
  return run;
}
bool is_later(const cf::EpochReport& report, const std::string& name) {
  return !report.find(name) && report.knows(name);
}
const Positions everything{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};

}  // namespace

TEST_CASE("a failing judge masks its samples, an abstaining reward does not") {
  const Run run = run_of(bag_of(coordinate(0, {1}), coordinate(1, {5}, {2, 3, 8})));
  CHECK(run.report.find("reward/masked") == 2);
  CHECK(run.report.find("reward/failed") == 2);
  CHECK(run.report.find("abstained/a") == 0);
  CHECK(run.report.find("abstained/b") == 3);
  CHECK(run.report.backward_evaluations == 10 * 4);
  CHECK(run.rewards.numel() == 10);
  // Where no reward can abstain there is no such metric.
  Bag plain;
  plain.add("a", [](const Tensor& x0) { return x0.select(1, 0); });
  CHECK_FALSE(run_of(plain).report.knows("abstained/a"));
}

TEST_CASE("a reward that abstains from all changes nothing, and has no score") {
  const Run alone = run_of(bag_of(coordinate(0)));
  const Run beside = run_of(bag_of(coordinate(0), coordinate(1, {}, everything), 5));
  CHECK(small::same_bits(alone.state, beside.state));
  CHECK(beside.report.find("reward/masked") == 0);
  CHECK(beside.report.find("reward/mean") == alone.report.find("reward/mean"));
  CHECK(beside.report.find("score/a") == alone.report.find("score/a"));
  CHECK(is_later(beside.report, "score/b"));
  CHECK(beside.report.find("abstained/b") == 12);
}

TEST_CASE("a sample from which all rewards abstain is masked like one that failed") {
  const Run abstained = run_of(bag_of(coordinate(0, {}, {0, 5, 6}), coordinate(1, {}, {0, 5})));
  const Run failed = run_of(bag_of(coordinate(0, {0, 5}, {6}), coordinate(1)));
  CHECK(abstained.report.find("reward/masked") == 2);
  CHECK(abstained.report.find("reward/failed") == 0);
  CHECK(failed.report.find("reward/failed") == 2);
  CHECK(small::same_bits(abstained.state, failed.state));
  CHECK(abstained.report.find("score/a") == failed.report.find("score/a"));
  // From everything: nothing is trained.
  const Run nothing = run_of(bag_of(coordinate(0, {}, everything)));
  CHECK(nothing.report.find("reward/masked") == 12);
  CHECK(nothing.report.gradient_steps == 0);
  CHECK(is_later(nothing.report, "score/a"));
  CHECK(is_later(nothing.report, "reward/mean"));
}

TEST_CASE("scores are means of what was scored, and what stands in is the group's mean") {
  const Run whole = run_of(bag_of(coordinate(1)));
  const Tensor b = whole.rewards;  // 3 groups of 4
  // The samples of the first epoch are the same whatever scores them.
  const Run run = run_of(bag_of(coordinate(1, {}, {1, 8, 9, 10, 11}), coordinate(1, {}, {}), 0));
  const Tensor scored = at::tensor({0, 2, 3, 4, 5, 6, 7}, at::kLong);
  const double mean = b.index_select(0, scored).mean().item<double>();
  CHECK(std::abs(*run.report.find("score/a") - mean) < 1e-12);
  Tensor expected = b.clone();
  expected[1] = (b[0] + b[2] + b[3]) / 3;
  expected.slice(0, 8).fill_(mean);  // of scores alone, not of what stands in
  CHECK(laws::relative_distance(run.rewards, expected) < 1e-12);
}

TEST_CASE("of several rewards is told how much each has in what samples are compared by") {
  const auto shares = [](const Run& run) {
    return std::pair(run.report.find("reward/share/a").value_or(-9),
                     run.report.find("reward/share/b").value_or(-9));
  };
  const Run run = run_of(bag_of(coordinate(0), coordinate(1), -0.5));
  const auto [a, b] = shares(run);
  CHECK(std::abs(a + b - 1) < 1e-12);
  // By hand, group by group.
  const Tensor first = run_of(bag_of(coordinate(0))).rewards.view({3, 4}),
               second = -0.5 * run_of(bag_of(coordinate(1))).rewards.view({3, 4});
  const auto centred = [](const Tensor& x) { return x - x.mean(1, true); };
  const Tensor sum = centred(first) + centred(second);
  const double expected = ((centred(first) * sum).sum() / sum.square().sum()).item<double>();
  CHECK(std::abs(a - expected) < 1e-12);
  // A scale of its own lets a reward decide alone; what abstains, or is the same for all, has none.
  CHECK(shares(run_of(bag_of(coordinate(0), coordinate(1), 1e6))).second > 0.999);
  CHECK(shares(run_of(bag_of(coordinate(0), coordinate(1, {}, everything)))).first == 1);
  CHECK(shares(run_of(bag_of(coordinate(0), [](const Tensor& x0) {
          return at::full({x0.size(0)}, 0.1, at::kDouble);
        }))).second == 0);
  // Where nothing differs there is nothing to have a share in; of a single reward nobody asks.
  CHECK(is_later(run_of(bag_of(coordinate(0), coordinate(0), -1)).report, "reward/share/a"));
  CHECK(
      is_later(run_of(bag_of(coordinate(0, everything), coordinate(1))).report, "reward/share/a"));
  CHECK_FALSE(run_of(bag_of(coordinate(0))).report.knows("reward/share/a"));
}

TEST_CASE("failures are counted by group") {
  const Run run = run_of(bag_of(coordinate(0, {0, 5, 6}), coordinate(1, {6, 7})));
  CHECK(run.report.find("reward/failed") == 4);
  CHECK(run.report.find("reward/failed_groups") == 2);
  CHECK(run.report.find("reward/failed_share") == 0.75);
  CHECK(run.report.find("reward/masked") == 4);
  const Run fine = run_of(bag_of(coordinate(0)));
  CHECK(fine.report.find("reward/failed") == 0);
  CHECK(fine.report.find("reward/failed_groups") == 0);
  CHECK(fine.report.find("reward/failed_share") == 0);
  // By hand, of groups of several sizes.
  const auto counts =
      cf::count_failures(flags({0, 3, 4}, 6), at::tensor({7, 2, 2, 2, 2, 5}, at::kLong));
  CHECK(counts.samples == 3);
  CHECK(counts.groups == 2);
  CHECK(counts.largest_share == 1);
}

TEST_CASE("a failure counts as the worst of its group where that is asked for") {
  const Tensor a = run_of(bag_of(coordinate(0))).rewards, b = run_of(bag_of(coordinate(1))).rewards;
  const auto worst = FailedScore::worst_of_group;
  for (const double bad : {no_score, infinity, -infinity}) {
    const Run run = run_of(bag_of(coordinate(0, {0, 5}, {}, bad)), worst);
    Tensor expected = a.clone();
    expected[0] = a.slice(0, 1, 4).min();
    expected[5] = at::minimum(a[4], a.slice(0, 6, 8).min());
    CHECK(same_bits(run.rewards, expected));
    CHECK(run.report.find("reward/masked") == 0);
    CHECK(run.report.find("reward/failed") == 2);
    CHECK(run.report.backward_evaluations == 12 * 4);
    // What was not measured is in no mean of scores.
    const Tensor measured = at::tensor({1, 2, 3, 4, 6, 7, 8, 9, 10, 11}, at::kLong);
    CHECK(std::abs(*run.report.find("score/a") -
                   a.index_select(0, measured).mean().item<double>()) < 1e-12);
  }
  // Of several rewards the one that failed; the worst of a penalty is the greatest.
  const Run both = run_of(bag_of(coordinate(0), coordinate(1, {2}), -2), worst);
  Tensor expected = a - 2 * b;
  expected[2] = a[2] - 2 * at::max(b[0], at::max(b[1], b[3]));
  CHECK(laws::relative_distance(both.rewards, expected) < 1e-15);
  // All of a group failed: there is no worst, the others are as they were.
  const Run masked = run_of(bag_of(coordinate(0, {4, 5, 6, 7, 8})), worst);
  CHECK(masked.report.find("reward/masked") == 4);
  CHECK(masked.report.find("reward/failed") == 5);
  CHECK(same_bits(masked.rewards.slice(0, 0, 4), a.slice(0, 0, 4)));
  CHECK(masked.rewards[4].item<double>() == a.slice(0, 9).min().item<double>());
  // All of everything: nothing is trained.
  CHECK(run_of(bag_of(coordinate(0, everything)), worst).report.find("reward/masked") == 12);
}

TEST_CASE("groups that have no worst score are left out whole, groups of one among them") {
  const auto nan = at::full({}, no_score, at::kDouble);
  // Groups: {0, 1} and {2} and {3, 4}.
  const Tensor group = at::tensor({0, 0, 1, 2, 2}, at::kLong);
  cf::ScoreSheet sheet{
      {"a", "b"}, at::tensor({1.0, 2.0, 3.0, 4.0, 5.0}, at::kDouble).repeat({2, 1}), {}};
  sheet.abstained = at::zeros({2, 5}, at::kBool);
  sheet.scores[0][2] = nan;  // the only one of its group
  sheet.scores[1][3] = nan;  // failed beside one that abstains: nothing to be worse than
  sheet.scores[1][4] = nan;
  sheet.abstained[1][4] = true;
  const auto counted = cf::counted_scores(sheet, group, FailedScore::worst_of_group);
  CHECK(at::equal(counted.samples, at::tensor({0, 1}, at::kLong)));
  const auto left = cf::counted_scores(sheet, group, FailedScore::left_out);
  CHECK(at::equal(left.samples, at::tensor({0, 1, 4}, at::kLong)));
  // Where one is scored, the other counts, and one that abstains stays.
  sheet.scores[1][4] = 5;
  sheet.abstained[1][4] = false;
  sheet.abstained[1][0] = true;
  sheet.scores[1][0] = nan;
  const auto more = cf::counted_scores(sheet, group, FailedScore::worst_of_group);
  CHECK(at::equal(more.samples, at::tensor({0, 1, 3, 4}, at::kLong)));
  CHECK(std::isnan(more.scores[1][0].item<double>()));
  CHECK(more.scores[1][2].item<double>() == -infinity);
  // Where all abstain there is nothing to learn.
  for (const int reward : {0, 1}) {
    sheet.scores[reward][1] = nan;
    sheet.abstained[reward][1] = true;
  }
  const auto fewer = cf::counted_scores(sheet, group, FailedScore::worst_of_group);
  CHECK(at::equal(fewer.samples, at::tensor({0, 3, 4}, at::kLong)));
}

TEST_CASE("in a group of equal scores a failure is as good as the others") {
  const auto flat = [](const Tensor& x0) {
    Tensor scores = at::full({x0.size(0)}, 0.1, at::kDouble);
    scores[3] = no_score;
    return scores;
  };
  const Run run = run_of(bag_of(flat), FailedScore::worst_of_group);
  CHECK(run.report.find("zero_std_ratio") == 1);
  CHECK(run.report.find("reward/failed") == 1);
}

TEST_CASE("an evaluation is of what was scored") {
  auto whole = trainer_of(bag_of(coordinate(0), coordinate(1))).evaluate();
  auto trainer = trainer_of(bag_of(coordinate(0), coordinate(1, {7}, {0, 1, 2, 9}), 2),
                            FailedScore::worst_of_group, {}, 1);
  const cf::Evaluation evaluation = trainer.evaluate();
  CHECK(evaluation.masked == 1);
  REQUIRE(evaluation.scores.size() == 2);
  const Tensor x = whole.x0.to(at::kDouble);
  const Tensor rows = flags({7}, 16).logical_not();
  const Tensor scored = flags({0, 1, 2, 7, 9}, 16).logical_not();
  const double a = x.select(1, 0).masked_select(rows).mean().item<double>();
  const double b = x.select(1, 1).masked_select(scored).mean().item<double>();
  CHECK(std::abs(evaluation.scores[0].value - a) < 1e-6);
  CHECK(std::abs(evaluation.scores[1].value - b) < 1e-6);
  CHECK(std::abs(evaluation.reward - (a + 2 * b)) < 1e-6);
  const cf::EpochReport report = trainer.run_epoch();
  CHECK(report.find("evaluation/abstained/a") == 0);
  CHECK(report.find("evaluation/abstained/b") == 4);

  Bag bag = bag_of(coordinate(0));
  bag.add("never", [](const Tensor& x0) {
    return PartialScores{at::zeros({x0.size(0)}), at::ones({x0.size(0)}, at::kBool)};
  });
  const cf::EpochReport none = trainer_of(bag, FailedScore::left_out, {}, 1).run_epoch();
  CHECK(none.find("evaluation/reward") == none.find("evaluation/score/a"));
  CHECK(is_later(none, "evaluation/score/never"));
  CHECK(none.find("evaluation/abstained/never") == 16);
  CHECK(none.find("evaluation/masked") == 0);
}

TEST_CASE("a reward that fails in evaluations alone costs no training, and is told of") {
  for (const bool throws : {false, true}) {
    const auto reward = [throws](const Tensor& x0) {
      if (x0.size(0) == 12) return x0.select(1, 0).to(at::kDouble);
      if (throws) throw std::runtime_error("not at night");
      return at::full({x0.size(0)}, no_score, at::kDouble);
    };
    auto trainer = trainer_of(bag_of(reward), FailedScore::left_out, {}, 1);
    std::vector<cf::Warning> warnings;
    const cf::RunReport run = trainer.run(6, Listener{&warnings});
    CHECK(run.epochs == 6);
    CHECK_FALSE(run.stopped);
    CHECK(is_later(run.last, "evaluation/reward"));
    CHECK(is_later(run.last, "evaluation/score/a"));
    CHECK(run.last.find("evaluation/masked") == 16);
    REQUIRE(warnings.size() == 6);
    CHECK(warnings[0].quantity == (throws ? "evaluation/failure" : "evaluation/masked"));
  }
}

TEST_CASE("rewards that are odd in other ways") {
  // Whatever is thrown is a failure: the run ends with it.
  const auto odd = [](const Tensor&) -> Tensor { throw 7; };
  const cf::RunReport gone = trainer_of(bag_of(odd)).run(60);
  CHECK(gone.epochs == 5);
  CHECK(gone.reason.find("a: something that is no std::exception") != std::string::npos);
  // Every second call.
  const auto calls = std::make_shared<int>(0);
  const auto unsteady = [calls](const Tensor& x0) -> Tensor {
    if (++*calls % 2 == 0) throw std::runtime_error("busy");
    return x0.select(1, 0);
  };
  const cf::RunReport half = trainer_of(bag_of(unsteady)).run(12);
  CHECK(half.epochs == 12);
  CHECK(half.last.gradient_steps == 6);
  // Other types of numbers.
  for (const auto type : {at::kHalf, at::kLong, at::kBool, at::kFloat}) {
    const auto reward = [type](const Tensor& x0) { return (x0.select(1, 0) > 0).to(type); };
    const Run run = run_of(bag_of(reward));
    CHECK(run.report.find("reward/masked") == 0);
    CHECK(run.rewards.max().item<double>() == 1);
  }
  // Too large for its type is no score.
  const auto half_precision = [](const Tensor& x0) {
    Tensor scores = x0.select(1, 0).to(at::kHalf);
    scores[2] = 1e5;
    return scores;
  };
  CHECK(run_of(bag_of(half_precision)).report.find("reward/failed") == 1);
}

TEST_CASE("ranks agree on what failures count as") {
  check_error(
      [] {
        cf::Team(2).run([](const cf::TeamRank& rank) {
          const auto failed =
              rank.rank() == 0 ? FailedScore::left_out : FailedScore::worst_of_group;
          small::trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, small::options(),
                         cf::Scoring{.failed = failed}, rank)
              .run(1);
        });
      },
      "failed", "on rank 1");
}
