#pragma once

/// @file
/// Advantages of rewards that each step has of its own, and of groups with missing scores.

#include <cstdint>
#include <vector>

#include <contraflow/advantage/advantages.hpp>

namespace contraflow {

/// Advantages where each step of a sample has a reward of its own, compared within prompt and step:
/// TempFlow-GRPO's branching, where a reward belongs to the one step that was noisy (arXiv
/// 2508.04324).
///
/// Column t of the result is `advantage(column t of the rewards, group)`; a global spread is that
/// of the step over the epoch.
/// @param advantage an Advantage; GroupAdvantage as published
/// @par Shape
/// @p reward float64 [N, T], @p group int64 [N]; result float64 [N, T]
/// @throws Error if shapes or types do not fit, or a reward is not finite
template <Advantage A>
Tensor advantages_by_step(const A& advantage, const Tensor& reward, const Tensor& group) {
  if (!reward.defined() || reward.dim() != 2) {
    throw Error("reward", "float64 [N, T], a column each step", shape_text(reward));
  }
  std::vector<Tensor> columns;
  for (std::int64_t t = 0; t < reward.size(1); ++t) {
    columns.push_back(advantage(reward.select(1, t).contiguous(), group));
  }
  return at::stack(columns, 1);
}

/// Advantages of groups of one size with missing scores, each of which counts as the mean of its
/// group's others: DDRL (arXiv 2512.04332). `(r - mean) / (std + epsilon)` with the standard
/// deviation of N - 1; a group without any score gets 0.
/// @param reward float64 [G, K]; anything where it is not valid
/// @param valid bool or numbers [G, K], not 0 where there is a score
/// @param epsilon above 0
/// @return float64 [G, K]
/// @throws Error if shapes do not fit
inline Tensor advantages_of_valid(const Tensor& reward, const Tensor& valid,
                                  double epsilon = 1e-4) {
  expects(epsilon > 0, "epsilon", "above 0", epsilon);
  if (!reward.defined() || reward.dim() != 2 || reward.scalar_type() != at::kDouble) {
    throw Error("reward", "float64 [G, K], a row each group", shape_text(reward));
  }
  expects_like(valid, reward, "valid");
  const Tensor there = valid != 0;
  const Tensor known = reward.masked_fill(there.logical_not(), 0);
  const Tensor mean = known.sum(1, true) / there.sum(1, true).clamp_min(1);
  const Tensor filled = at::where(there, known, mean.expand_as(known));
  const Tensor group =
      at::arange(reward.size(0), at::kLong).unsqueeze(1).expand_as(reward).flatten();
  const GroupAdvantage advantage{
      .spread = Spread::group, .epsilon = epsilon, .guard = Guard::add, .unbiased = true};
  return advantage(filled.flatten(), group).view_as(reward);
}

}  // namespace contraflow
