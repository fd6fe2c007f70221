#pragma once

/// @file
/// Advantages of groups with missing scores.

#include <cstdint>

#include <contraflow/advantage/advantages.hpp>

namespace contraflow {

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
