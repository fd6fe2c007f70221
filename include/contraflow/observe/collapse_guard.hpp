#pragma once

/// @file
/// An observer that warns of collapse.

#include <cmath>
#include <optional>
#include <string>

#include <contraflow/core/error.hpp>
#include <contraflow/observe/report.hpp>

namespace contraflow {

/// What CollapseGuard remembers of a run.
struct CollapseGuardState {
  std::optional<double> first_velocity_norm = {};  ///< the first one that is finite and above 0
  bool old_deviation_outside = false;              ///< was warned of, and has not been back
  bool velocity_norm_outside = false;              ///< likewise
  bool zero_std_ratio_outside = false;             ///< likewise
};

/// Observer that warns, by name, of the quantities that leave their range when training collapses.
///
/// - "old_deviation", the distance of the trained weights from those of the policy that collects,
///   as a part of the latter's length: above its threshold the samples say little about the policy
///   they train;
/// - "velocity_norm", the root mean square of the trained velocities: more than `velocity_growth`
///   times its first value of the run, or less than that part of it;
/// - "zero_std_ratio", the share of groups whose rewards are all equal: such a group teaches
///   nothing. Near the highest reward this is success rather than collapse.
///
/// A warning is given when a quantity crosses its threshold, and not again until it has been back.
/// A value that is not finite is outside. Metrics a report lacks are passed over.
///
/// @throws Error from `start` when a threshold is negative or NaN, or `velocity_growth` is below 1;
/// infinity switches a check off
///
/// Draws no random numbers.
struct CollapseGuard {
  double old_deviation = 0.5;     ///< largest healthy "old_deviation"
  double velocity_growth = 3.0;   ///< largest healthy factor on "velocity_norm", both ways
  double zero_std_ratio = 0.9;    ///< largest healthy "zero_std_ratio"
  CollapseGuardState state = {};  ///< kept by the observer, reset by `start`

  /// Forgets an earlier run.
  void start(const RunInfo&) {
    expects(old_deviation >= 0, "CollapseGuard.old_deviation", "a number >= 0", old_deviation);
    expects(velocity_growth >= 1, "CollapseGuard.velocity_growth", "a number >= 1",
            velocity_growth);
    expects(zero_std_ratio >= 0, "CollapseGuard.zero_std_ratio", "a number >= 0", zero_std_ratio);
    state = {};
  }

  /// Warnings of quantities that have left their range.
  Verdict operator()(const EpochReport& report) {
    Verdict verdict;
    check_threshold(report, "old_deviation", old_deviation,
                    "the trained policy has left the one that collects samples",
                    state.old_deviation_outside, verdict);
    check_velocity_norm(report, verdict);
    check_threshold(report, "zero_std_ratio", zero_std_ratio,
                    "most groups have equal rewards and teach nothing",
                    state.zero_std_ratio_outside, verdict);
    return verdict;
  }

 private:
  static void check_threshold(const EpochReport& report, const char* quantity, double threshold,
                              const char* meaning, bool& outside, Verdict& verdict) {
    const std::optional<double> value = report.find(quantity);
    if (!value) return;
    const std::string range = "above the threshold " + shown(threshold) + ": " + meaning;
    note(report, quantity, *value, *value <= threshold, range, outside, verdict);
  }

  void check_velocity_norm(const EpochReport& report, Verdict& verdict) {
    const std::optional<double> value = report.find("velocity_norm");
    if (!value) return;
    if (!state.first_velocity_norm && std::isfinite(*value) && *value > 0) {
      state.first_velocity_norm = value;
    }
    const double first = state.first_velocity_norm.value_or(*value);
    const bool healthy = *value <= first * velocity_growth && *value >= first / velocity_growth;
    const std::string range = "more than a factor " + shown(velocity_growth) +
                              " from its first value " + shown(first) +
                              ": the velocities are no longer those of a flow";
    note(report, "velocity_norm", *value, healthy, range, state.velocity_norm_outside, verdict);
  }

  static void note(const EpochReport& report, const std::string& quantity, double value,
                   bool within, const std::string& range, bool& outside, Verdict& verdict) {
    const bool healthy = within && std::isfinite(value);
    if (!healthy && !outside) {
      const std::string reason = std::isfinite(value) ? range : "which is not finite";
      verdict.warnings.push_back({.quantity = quantity,
                                  .value = value,
                                  .message = quantity + " is " + shown(value) + " at epoch " +
                                             shown(report.epoch) + ", " + reason});
    }
    outside = !healthy;
  }
};

}  // namespace contraflow
