#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/observe/collapse_guard.hpp>

namespace cf = contraflow;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

/// Epochs (from 1) at which the guard warns of a metric that takes these values.
std::vector<std::int64_t> warned_at(cf::CollapseGuard guard, const std::string& quantity,
                                    const std::vector<double>& values) {
  guard.start({.first_epoch = 1, .last_epoch = 100});
  std::vector<std::int64_t> epochs;
  std::int64_t epoch = 0;
  for (const double value : values) {
    const cf::Verdict verdict =
        guard({.epoch = ++epoch, .metrics = {{"reward/mean", 0}, {quantity, value}}});
    CHECK(!verdict.stop);
    for (const cf::Warning& warning : verdict.warnings) {
      CHECK(warning.quantity == quantity);
      epochs.push_back(epoch);
    }
  }
  return epochs;
}

using Epochs = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("CollapseGuard warns once a crossing", "[observe]") {
  const cf::CollapseGuard guard{.old_deviation = 0.5, .velocity_growth = 2, .zero_std_ratio = 0.75};
  CHECK(warned_at(guard, "old_deviation", {0.5, 0.6, 9, 0.4, 0.6, not_a_number}) == Epochs{2, 5});
  CHECK(warned_at(guard, "old_deviation", {0.1, not_a_number, not_a_number, 0.1, infinity}) ==
        Epochs{2, 5});
  CHECK(warned_at(guard, "zero_std_ratio", {0.75, 0.8, 1, 0}) == Epochs{2});
  CHECK(warned_at(guard, "velocity_norm", {4, 8, 8.1, 2, 1.9, 1, 4}) == Epochs{3, 5});
  CHECK(warned_at(guard, "velocity_norm", {not_a_number, 4, 8, 9}) == Epochs{1, 4});
  CHECK(warned_at(guard, "velocity_norm", {0, 0, 1, 3}) == Epochs{4});
  CHECK(warned_at(guard, "something_else", {not_a_number, 1e9}).empty());
}

TEST_CASE("CollapseGuard names quantity, value and threshold", "[observe]") {
  cf::CollapseGuard guard{.old_deviation = 0.5, .velocity_growth = 2, .zero_std_ratio = 0.75};
  guard.start({});
  guard({.epoch = 1, .metrics = {{"velocity_norm", 4}}});
  const cf::Verdict verdict =
      guard({.epoch = 12,
             .metrics = {{"zero_std_ratio", 0.9}, {"velocity_norm", 9}, {"old_deviation", 0.625}}});
  REQUIRE(verdict.warnings.size() == 3);
  CHECK(verdict.warnings[0].quantity == "old_deviation");
  CHECK(verdict.warnings[0].value == 0.625);
  CHECK(verdict.warnings[0].message ==
        "old_deviation is 0.625 at epoch 12, above the threshold 0.5: the trained policy has left "
        "the one that collects samples");
  CHECK(verdict.warnings[1].message ==
        "velocity_norm is 9 at epoch 12, more than a factor 2 from its first value 4: the "
        "velocities are no longer those of a flow");
  CHECK(verdict.warnings[2].message ==
        "zero_std_ratio is 0.9 at epoch 12, above the threshold 0.75: most groups have equal "
        "rewards and teach nothing");
  const cf::Verdict broken = guard({.epoch = 13, .metrics = {{"velocity_norm", 4}}});
  CHECK(broken.warnings.empty());
  CHECK(guard({.epoch = 14, .metrics = {{"velocity_norm", not_a_number}}}).warnings.at(0).message ==
        "velocity_norm is nan at epoch 14, which is not finite");
}

TEST_CASE("CollapseGuard forgets the run before", "[observe]") {
  cf::CollapseGuard guard;
  for (const double scale : {1.0, 100.0}) {
    guard.start({});
    CHECK(guard({.epoch = 1, .metrics = {{"velocity_norm", scale}}}).warnings.empty());
    CHECK(guard({.epoch = 2, .metrics = {{"velocity_norm", 4 * scale}}}).warnings.size() == 1);
  }
}

TEST_CASE("CollapseGuard checks its thresholds; infinity switches one off", "[observe]") {
  CHECK_THROWS_AS(cf::CollapseGuard{.old_deviation = -1}.start({}), cf::Error);
  CHECK_THROWS_AS(cf::CollapseGuard{.velocity_growth = 0.5}.start({}), cf::Error);
  CHECK_THROWS_AS(cf::CollapseGuard{.zero_std_ratio = not_a_number}.start({}), cf::Error);
  CHECK(warned_at({.old_deviation = infinity}, "old_deviation", {1e300}).empty());
  CHECK(warned_at({.velocity_growth = infinity}, "velocity_norm", {1, 1e300, 0}).empty());
}
