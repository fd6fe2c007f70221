#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <contraflow/observe/early_stop.hpp>

namespace cf = contraflow;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

/// The verdict at the end of a run whose metric "m" takes these values, with an epoch that says
/// nothing of it after each; `epoch` is where it ended.
struct Outcome {
  std::int64_t epoch = 0;
  cf::Verdict verdict = {};
};

Outcome outcome(cf::EarlyStop& stop, const std::vector<double>& values) {
  stop.start({.first_epoch = 1, .last_epoch = 100});
  Outcome now;
  for (const double value : values) {
    for (const bool present : {true, false}) {
      cf::EpochReport report{.epoch = ++now.epoch, .metrics = {}};
      if (present) report.metrics = {{"other", 9}, {"m", value}};
      now.verdict = stop(report);
      if (now.verdict.stop) return now;
    }
  }
  return now;
}

}  // namespace

TEST_CASE("EarlyStop ends a run at its target", "[observe]") {
  cf::EarlyStop up{.metric = "m", .target = 0.95};
  const Outcome reached = outcome(up, {0.1, not_a_number, infinity, 0.94, 0.95, 0.96});
  CHECK(reached.epoch == 9);
  CHECK(reached.verdict.stop);
  CHECK(reached.verdict.reason == "m is 0.95 at epoch 9, the target is 0.95");
  CHECK(!outcome(up, {0.1, 0.94}).verdict.stop);

  cf::EarlyStop down{.metric = "m", .target = 0.5, .minimise = true};
  CHECK(outcome(down, {0.7, 0.4}).epoch == 3);
  CHECK(outcome(down, {0.4, 0.7}).epoch == 1);
}

TEST_CASE("EarlyStop ends a run that stopped improving", "[observe]") {
  cf::EarlyStop stop{.metric = "m", .patience = 2};
  const Outcome stalled = outcome(stop, {0.1, 0.2, 0.2, 0.3, 0.1, 0.3, 0.4});
  CHECK(stalled.epoch == 11);
  CHECK(stalled.verdict.reason == "m has not improved on 0.3 in 2 reports, up to epoch 11");
  CHECK(outcome(stop, {0.1, 0.1, 0.2, 0.1, 0.3, 0.3}).verdict.stop == false);  // starts anew
  CHECK(outcome(stop, {not_a_number, not_a_number}).verdict.reason ==
        "m has not improved on nan in 2 reports, up to epoch 3");

  cf::EarlyStop coarse{.metric = "m", .patience = 2, .min_improvement = 0.125};
  CHECK(outcome(coarse, {0.25, 0.375, 0.375}).epoch == 5);
  CHECK(!outcome(coarse, {0.25, 0.375, 0.5}).verdict.stop);

  cf::EarlyStop down{.metric = "m", .patience = 1, .minimise = true};
  CHECK(outcome(down, {0.5, 0.4, 0.45}).epoch == 5);
}

TEST_CASE("EarlyStop waits for a metric that is to come", "[observe]") {
  for (const char* announced : {"evaluation/score/target", "evaluation/score", "evaluation"}) {
    cf::EarlyStop stop{.metric = "evaluation/score/target", .target = 0.5, .patience = 1};
    stop.start({.first_epoch = 1, .last_epoch = 100});
    cf::EpochReport without{.epoch = 1, .metrics = {{"reward/mean", 1}}, .later = {announced}};
    CHECK(!stop(without).stop);
    CHECK(!stop(without).stop);
    CHECK(!stop({.epoch = 3, .metrics = {{"evaluation/score/target", 0.4}}}).stop);
    without.later.clear();  // it is known by now
    CHECK(!stop(without).stop);
    CHECK(stop({.epoch = 5, .metrics = {{"evaluation/score/target", 0.6}}}).stop);
  }
}

TEST_CASE("EarlyStop refuses a metric that there is not, with the names there are", "[observe]") {
  cf::EarlyStop stop{.metric = "reward/maen", .target = 0};
  const cf::EpochReport report{
      .epoch = 1, .metrics = {{"reward/mean", 1}, {"loss", 2}}, .later = {"evaluation/reward"}};
  for (int run = 0; run < 2; ++run) {
    stop.start({.first_epoch = 1, .last_epoch = 100});
    CHECK_THROWS_WITH(stop(report),
                      "EarlyStop.metric: expected a metric of this run (reward/mean, loss, "
                      "evaluation/reward); one that only some epochs have is announced in the "
                      "others by report.add(name, std::nullopt), got reward/maen");
  }
  // A name that is only the beginning of another's, or the other way round, is a third.
  for (const char* wrong : {"evaluation", "evaluation/reward2", "reward", "los"}) {
    cf::EarlyStop other{.metric = wrong, .target = 0};
    other.start({});
    CHECK_THROWS_AS(other(report), cf::Error);
  }
  // One that a report promised and the next neither has nor promises.
  cf::EarlyStop promised{.metric = "evaluation/score/x", .target = 0};
  promised.start({});
  CHECK(!promised({.epoch = 1, .metrics = {}, .later = {"evaluation/score"}}).stop);
  CHECK_THROWS_AS(promised(report), cf::Error);
  cf::EarlyStop nothing{.metric = "m", .target = 0};
  nothing.start({});
  CHECK_THROWS_WITH(nothing({.epoch = 1}), Catch::Matchers::ContainsSubstring("this run (none);"));
}

TEST_CASE("EarlyStop refuses options that make no sense", "[observe]") {
  const auto refuses = [](cf::EarlyStop stop, const std::string& argument) {
    try {
      stop.start({});
    } catch (const cf::Error& error) {
      return error.argument() == argument;
    }
    return false;
  };
  CHECK(refuses({}, "EarlyStop"));
  CHECK(refuses({.target = not_a_number}, "EarlyStop.target"));
  CHECK(refuses({.target = 1, .patience = -1}, "EarlyStop.patience"));
  CHECK(refuses({.patience = 1, .min_improvement = -1}, "EarlyStop.min_improvement"));
  CHECK(refuses({.patience = 1, .min_improvement = not_a_number}, "EarlyStop.min_improvement"));
}
