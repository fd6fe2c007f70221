#pragma once

/// @file
/// Advantages of rewards that each step has of its own.

#include <cstdint>
#include <vector>

#include <contraflow/advantage/concept.hpp>
#include <contraflow/core/error.hpp>

namespace contraflow {

/// Advantages where each step of a sample has a reward of its own, compared within prompt and step:
/// TempFlow-GRPO's branching, where a reward belongs to the one step that was noisy (arXiv
/// 2508.04324).
///
/// Column t of the result is `advantage(column t of the rewards, group)`; a global spread is that
/// of the step over the epoch.
/// @param advantage an Advantage; GroupAdvantage as published
/// @param reward float64 [N, T]
/// @param group of each sample, int64 [N]
/// @return float64 [N, T]
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

}  // namespace contraflow
