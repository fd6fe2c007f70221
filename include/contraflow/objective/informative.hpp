#pragma once

/// @file
/// Which groups of samples say anything, and which are complete.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <contraflow/core/members.hpp>
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

/// The groups that have all their samples, for terms that compare whole groups: those of the
/// greatest size there is. A group of which a sample has no score is smaller, and is left out.
/// @param scores of N samples
/// @return positions of the samples, a row each group, int64 [G, K]
inline Tensor complete_groups(const Scores& scores) {
  const auto members = members_of_groups(scores.group);
  std::size_t size = 0;
  for (const auto& own : members) size = std::max(size, own.size());
  std::vector<std::int64_t> rows;
  for (const auto& own : members) {
    if (own.size() == size) rows.insert(rows.end(), own.begin(), own.end());
  }
  return at::tensor(rows, at::kLong).view({-1, std::max<std::int64_t>(std::int64_t(size), 1)});
}

}  // namespace contraflow
