#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "support/format.hpp"
#include "support/run.hpp"

/// What is said of the runs of two methods.
namespace head_to_head {

namespace cf = contraflow;
using namespace support;

/// The rewards at which speed is compared, as shares of the maximum, which is 1 for all tasks.
inline constexpr double levels[] = {0.90, 0.95, 0.98};

/// What tuning runs say of a learning rate.
struct Merit {
  explicit Merit(const std::vector<Run>& runs)
      : cost(evaluations_to(runs, 0.95).median()), reward(Range(final_rewards(runs)).median) {
    for (const Run& run : runs) {
      const bool got_there = std::isfinite(first_at(run, 0.95, &Point::evaluations));
      kept += got_there && final_reward(run) >= 0.9 ? 1 : 0;
    }
  }

  /// Better is: more runs that got to 95 % and did not fall back below 90 %; then fewer evaluations
  /// to 95 %; then a higher reward at the end.
  bool is_better_than(const Merit& other) const {
    if (kept != other.kept) return kept > other.kept;
    if (cost != other.cost) return cost < other.cost;
    return reward > other.reward;
  }

  int kept = 0;
  double cost;    ///< median of evaluations to 95 %
  double reward;  ///< at the end, median
};

/// The release of the library.
inline std::string version_text() {
  return std::to_string(cf::version.major) + "." + std::to_string(cf::version.minor) + "." +
         std::to_string(cf::version.patch);
}

/// How many times as much @p slow took as @p fast, on medians.
struct Ratio {
  double value = 0;          ///< a bound where one side did not get there
  bool is_least = false;     ///< the true ratio is higher
  bool is_most = false;      ///< the true ratio is lower
  double low = 0, high = 0;  ///< over pairs of runs of one seed

  std::string text() const {
    const std::string sign = is_least ? "> " : is_most ? "< " : "";
    return sign + compact(value);
  }
};

/// The cost at which a run ended.
inline double end_of(const Run& run, double Point::*cost) { return run.curve.back().*cost; }

/// Ratio of costs to a level; runs that never got there count with what they had spent.
/// @return nothing where neither side got there
inline std::optional<Ratio> ratio_of(const std::vector<Run>& slow, const std::vector<Run>& fast,
                                     double level, double Point::*cost) {
  const auto spent = [&](const std::vector<Run>& runs) {
    std::vector<double> costs;
    for (const Run& run : runs) {
      const double own = first_at(run, level, cost);
      costs.push_back(std::isfinite(own) ? own : end_of(run, cost));
    }
    return costs;
  };
  const bool slow_reached = std::isfinite(reached(slow, level, cost).median());
  const bool fast_reached = std::isfinite(reached(fast, level, cost).median());
  if (slow.empty() || fast.empty() || (!slow_reached && !fast_reached)) return std::nullopt;
  const std::vector<double> above = spent(slow), below = spent(fast);
  Ratio ratio;
  ratio.value = *quantile(above, 0.5) / *quantile(below, 0.5);
  ratio.is_least = !slow_reached;
  ratio.is_most = !fast_reached;
  std::vector<double> pairs;
  for (std::size_t i = 0; i < std::min(above.size(), below.size()); ++i) {
    pairs.push_back(above[i] / below[i]);
  }
  ratio.low = *quantile(pairs, 0);
  ratio.high = *quantile(pairs, 1);
  return ratio;
}

}  // namespace head_to_head
