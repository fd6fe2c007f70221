#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "format.hpp"
#include "run.hpp"

/// What is to be said of several runs.
namespace support {

inline constexpr double never = std::numeric_limits<double>::infinity();

/// What a run took to reach a reward first, between two evaluations by linear interpolation.
inline double first_at(const Run& run, double level, double Point::*cost) {
  for (std::size_t i = 0; i < run.curve.size(); ++i) {
    const Point& point = run.curve[i];
    if (point.reward < level) continue;
    if (i == 0) return point.*cost;
    const Point& before = run.curve[i - 1];
    const double share = (level - before.reward) / (point.reward - before.reward);
    return std::lerp(before.*cost, point.*cost, share);
  }
  return never;
}

/// Costs of several runs; `never` where a run did not get there.
struct Reached {
  std::vector<double> costs;

  double median() const { return quantile(costs, 0.5).value_or(never); }
  double least() const { return quantile(costs, 0).value_or(never); }
  double most() const { return quantile(costs, 1).value_or(never); }
  std::size_t count() const {
    return std::size_t(
        std::count_if(costs.begin(), costs.end(), [](double cost) { return std::isfinite(cost); }));
  }

  /// "median (least - most)".
  std::string text() const {
    if (costs.empty()) return "no run";
    if (count() == 0) return "not reached";
    const auto shown = [](double cost) {
      return std::isfinite(cost) ? compact(cost) : std::string("never");
    };
    return shown(median()) + " (" + shown(least()) + " – " + shown(most()) + ")";
  }
};

inline Reached reached(const std::vector<Run>& runs, double level, double Point::*cost) {
  Reached result;
  for (const Run& run : runs) result.costs.push_back(first_at(run, level, cost));
  return result;
}
inline Reached evaluations_to(const std::vector<Run>& runs, double level) {
  return reached(runs, level, &Point::evaluations);
}

/// Mean reward of the last three evaluations.
inline double final_reward(const Run& run) {
  const std::size_t count = std::min<std::size_t>(run.curve.size(), 3);
  double sum = 0;
  for (std::size_t i = run.curve.size() - count; i < run.curve.size(); ++i) {
    sum += run.curve[i].reward;
  }
  return sum / double(count);
}
inline std::vector<double> final_rewards(const std::vector<Run>& runs) {
  std::vector<double> rewards;
  for (const Run& run : runs) rewards.push_back(final_reward(run));
  return rewards;
}

/// Median, least and most.
struct Range {
  explicit Range(const std::vector<double>& values) : is_empty(values.empty()) {
    if (is_empty) return;
    median = *quantile(values, 0.5);
    least = *quantile(values, 0);
    most = *quantile(values, 1);
  }
  std::string text(int decimals) const {
    if (is_empty) return "no run";
    return fixed(median, decimals) + " (" + fixed(least, decimals) + " – " + fixed(most, decimals) +
           ")";
  }
  bool is_empty;
  double median = 0, least = 0, most = 0;
};

/// "80 / 20".
inline std::string percentages(const std::vector<double>& shares) {
  std::vector<std::string> texts;
  for (const double share : shares) texts.push_back(fixed(100 * share, 0));
  return joined(texts, " / ");
}

/// Median over runs of the share of each rewarded mode, in percent.
///
/// Modes are put in the order of their shares in each run first: which one wins differs by seed.
inline std::string shares_text(const std::vector<Run>& runs) {
  std::vector<std::vector<double>> ordered;
  for (const Run& run : runs) {
    std::vector<double> shares = run.shares;
    std::sort(shares.rbegin(), shares.rend());
    ordered.resize(shares.size());
    for (std::size_t i = 0; i < shares.size(); ++i) ordered[i].push_back(shares[i]);
  }
  std::vector<double> medians;
  for (const auto& shares : ordered) medians.push_back(*quantile(shares, 0.5));
  return percentages(medians);
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

}  // namespace support
