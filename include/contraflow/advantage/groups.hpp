#pragma once

/// @file
/// Groups of samples of one prompt: going through them, and their statistics.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <contraflow/core/members.hpp>
#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// Throws Error unless @p reward is float64 and @p group int64 [N], N > 0, all finite.
inline void expects_rewards(const Tensor& reward, const Tensor& group) {
  if (!reward.defined() || reward.dim() != 1 || reward.numel() == 0 ||
      reward.scalar_type() != at::kDouble) {
    throw Error("reward", "float64 [N] with N > 0", shape_text(reward));
  }
  if (!group.defined() || group.sizes() != reward.sizes() || group.scalar_type() != at::kLong) {
    throw Error("group", "int64 " + shape_text(reward), shape_text(group));
  }
  if (!reward.isfinite().all().item<bool>()) {
    throw Error("reward", "finite values (mask samples without a score first)", "NaN or infinity");
  }
}

/// Applies @p f to the rewards of each group: `f(rewards, advantages)` fills the second span.
/// Groups whose rewards are all equal get exact zeros without being asked.
/// @par Shape
/// @p reward float64 [N], @p group int64 [N]; result float64 [N]
/// @throws Error if shapes or types do not fit, or a reward is not finite
template <class F>
Tensor map_groups(const Tensor& reward, const Tensor& group, F&& f) {
  expects_rewards(reward, group);
  const Tensor values = reward.contiguous();
  Tensor result = at::zeros_like(values);
  std::vector<double> rewards, advantages;
  for (const auto& members : members_of_groups(group)) {
    rewards.clear();
    for (const std::int64_t i : members) rewards.push_back(values.data_ptr<double>()[i]);
    const auto [least, greatest] = std::minmax_element(rewards.begin(), rewards.end());
    if (*least == *greatest) continue;
    advantages.assign(rewards.size(), 0);
    f(std::span<const double>(rewards), std::span<double>(advantages));
    for (std::size_t k = 0; k < members.size(); ++k) {
      result.data_ptr<double>()[members[k]] = advantages[k];
    }
  }
  return result;
}

/// Mean of @p values, which are not empty.
inline double mean_of(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

/// Population standard deviation of @p values.
inline double std_of(std::span<const double> values) {
  const double mean = mean_of(values);
  double sum = 0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

/// Standard deviation of @p values with N - 1 in the denominator; 0 of a single one.
inline double unbiased_std_of(std::span<const double> values) {
  const auto size = static_cast<double>(values.size());
  return size > 1 ? std_of(values) * std::sqrt(size / (size - 1)) : 0;
}

/// What keeps a division by a standard deviation from one by zero.
enum class Guard {
  add,       ///< `std + epsilon`
  floor,     ///< `max(std, epsilon)`
  variance,  ///< `sqrt(std^2 + epsilon)`
};

/// By what something of this standard deviation is divided.
inline double guarded(double std, Guard guard, double epsilon) {
  switch (guard) {
    case Guard::add:
      return std + epsilon;
    case Guard::floor:
      return std::max(std, epsilon);
    case Guard::variance:
      return std::sqrt(std * std + epsilon);
  }
  return std;
}

/// What a person wants to know of the rewards of an epoch.
struct GroupStatistics {
  double zero_std_ratio;  ///< share of groups whose rewards are all equal: nothing to learn there
  double mean_std;        ///< mean over groups of their population standard deviation
};

/// Statistics of the rewards of each group.
/// @par Shape
/// @p reward float64 [N], @p group int64 [N]
inline GroupStatistics group_statistics(const Tensor& reward, const Tensor& group) {
  expects_rewards(reward, group);
  const auto groups = members_of_groups(group);
  GroupStatistics statistics{0, 0};
  for (const auto& members : groups) {
    std::vector<double> rewards;
    for (const std::int64_t i : members) rewards.push_back(reward[i].item<double>());
    const auto [least, greatest] = std::minmax_element(rewards.begin(), rewards.end());
    const double share = 1 / static_cast<double>(groups.size());
    statistics.mean_std += std_of(rewards) * share;
    if (*least == *greatest) statistics.zero_std_ratio += share;
  }
  return statistics;
}

/// How much each of several parts has in the variance of their sum within groups:
/// `cov(p_k, S) / var(S)` with `S = sum_k p_k`, both around the means of the groups. Together they
/// are 1; one below 0 has the others against it.
/// @param parts float64 [R, N]; NaN where one has no say, which counts as the mean of its group
/// @param group int64 [N]
/// @return float64 [R]; undefined where the samples of no group differ
inline Tensor variance_shares(const Tensor& parts, const Tensor& group) {
  const Tensor values = parts.contiguous(), deviations = at::zeros_like(values);
  const auto groups = members_of_groups(group);
  for (std::int64_t k = 0; k < values.size(0); ++k) {
    const double* value = data_of<const double>(values[k]);
    double* deviation = data_of<double>(deviations[k]);
    for (const auto& members : groups) {
      std::vector<std::int64_t> known;
      std::vector<double> own;
      for (const std::int64_t i : members) {
        if (std::isnan(value[i])) continue;
        known.push_back(i);
        own.push_back(value[i]);
      }
      // The mean of equal numbers need not be that number.
      if (std::adjacent_find(own.begin(), own.end(), std::not_equal_to<>()) == own.end()) continue;
      const double mean = mean_of(own);
      for (const std::int64_t i : known) deviation[i] = value[i] - mean;
    }
  }
  const Tensor sum = deviations.sum(0), variance = sum.square().sum();
  if (variance.item<double>() == 0) return {};
  return (deviations * sum).sum(1) / variance;
}

/// Mean over groups of the mean of each group's best rewards, those not below the percentile
/// `100 - percent` (linear interpolation between ranks).
/// @param reward float64 [N]
/// @param group int64 [N]
/// @param percent in (0, 100]
inline double mean_of_top(const Tensor& reward, const Tensor& group, double percent) {
  expects_rewards(reward, group);
  expects(percent > 0 && percent <= 100, "percent", "a value in (0, 100]", percent);
  const auto groups = members_of_groups(group);
  double sum = 0;
  for (const auto& members : groups) {
    std::vector<double> rewards;
    for (const std::int64_t i : members) rewards.push_back(reward[i].item<double>());
    std::sort(rewards.begin(), rewards.end());
    const double place = (1 - percent / 100) * static_cast<double>(rewards.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, rewards.size() - 1);
    const double share = place - static_cast<double>(below);
    const double threshold = rewards[below] + share * (rewards[above] - rewards[below]);
    const auto first = std::lower_bound(rewards.begin(), rewards.end(), threshold);
    sum += mean_of({first, rewards.end()});
  }
  return sum / static_cast<double>(groups.size());
}

}  // namespace contraflow
