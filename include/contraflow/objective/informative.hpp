#pragma once

/// @file
/// Which groups of samples say anything.

#include <contraflow/objective/batch.hpp>

namespace contraflow {

/// The samples of groups whose samples were not all as good as each other; the others say nothing
/// of what to change.
/// @param scores of N samples
/// @param only false: all samples
/// @return bool [N]; undefined for all
inline Tensor informative(const Scores& scores, bool only = true) {
  if (!only) return {};
  // A sample as good as the mean of its group has an advantage of zero, and belongs to it.
  const Tensor group = std::get<1>(at::_unique(scores.group, /*sorted=*/true,
                                               /*return_inverse=*/true));
  const Tensor differing =
      at::zeros_like(group).index_add_(0, group, (scores.advantage != 0).to(group.scalar_type()));
  return differing.index_select(0, group) > 0;
}

}  // namespace contraflow
