#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "support/statistics.hpp"

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

}  // namespace head_to_head
