#pragma once

/// @file
/// An observer that ends a run.

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include <contraflow/core/error.hpp>
#include <contraflow/observe/metric_names.hpp>
#include <contraflow/observe/report.hpp>

namespace contraflow {

/// What EarlyStop remembers of a run.
struct EarlyStopState {
  std::optional<double> best = {};    ///< best value so far
  std::int64_t without_progress = 0;  ///< reports of the metric since it last improved
  bool seen = false;                  ///< whether any report had the metric
};

/// Observer that ends a run whose metric has reached a target, or has stopped improving.
///
/// Reports that have the metric among those to come (`EpochReport::later`), such as epochs between
/// two evaluations, are passed over. A value that is not finite reaches no target and improves on
/// nothing.
///
/// @code
/// trainer.run(1000, cf::EarlyStop{.metric = "reward/mean", .target = 0.95});
/// trainer.run(1000, cf::EarlyStop{.metric = "evaluation/reward", .patience = 10});
/// @endcode
///
/// @throws Error from `start` when there is neither a target nor a patience, the target is not
/// finite, or `patience` or `min_improvement` is negative; from a report, when no report so far had
/// the metric and this one says nothing of it either: with the names there are
///
/// Draws no random numbers.
struct EarlyStop {
  std::string metric = "reward/mean";  ///< metric to watch
  std::optional<double> target = {};   ///< stop as soon as the metric is at least as good as this
  std::int64_t patience = 0;           ///< stop after so many reports without improvement; 0: never
  double min_improvement = 0;          ///< a value improves if it beats the best by more than this
  bool minimise = false;               ///< smaller is better
  EarlyStopState state = {};           ///< kept by the observer, reset by `start`

  /// Forgets an earlier run.
  void start(const RunInfo&) {
    expects(target || patience > 0, "EarlyStop", "a target or a patience above 0", "neither");
    expects(std::isfinite(target.value_or(0)), "EarlyStop.target", "a finite number",
            target.value_or(0));
    expects(patience >= 0, "EarlyStop.patience", "a number >= 0", patience);
    expects(min_improvement >= 0, "EarlyStop.min_improvement", "a number >= 0", min_improvement);
    state = {};
  }

  /// A stop, with its reason, or nothing.
  Verdict operator()(const EpochReport& report) {
    const std::optional<double> value = report.find(metric);
    if (!value) {
      if (!state.seen) detail::expects_known(report, metric, "EarlyStop.metric");
      return {};
    }
    state.seen = true;
    if (target && std::isfinite(*value) && gain(*value, *target) >= 0) {
      return {.stop = true,
              .reason = metric + " is " + shown(*value) + " at epoch " + shown(report.epoch) +
                        ", the target is " + shown(*target)};
    }
    if (std::isfinite(*value) && (!state.best || gain(*value, *state.best) > min_improvement)) {
      state.best = value;
      state.without_progress = 0;
      return {};
    }
    ++state.without_progress;
    if (patience == 0 || state.without_progress < patience) return {};
    return {.stop = true,
            .reason = metric + " has not improved on " + (state.best ? shown(*state.best) : "nan") +
                      " in " + shown(patience) + " reports, up to epoch " + shown(report.epoch)};
  }

 private:
  double gain(double value, double over) const { return minimise ? over - value : value - over; }
};

}  // namespace contraflow
