#pragma once

/// @file
/// Which samples belong to which group.

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// Positions of the samples of each group, groups in ascending order of their ids.
/// @par Shape
/// @p group int64 [N], on the CPU
inline std::vector<std::vector<std::int64_t>> members_of_groups(const Tensor& group) {
  const Tensor ids = group.contiguous();
  const auto* id = data_of<const std::int64_t>(ids);
  std::map<std::int64_t, std::vector<std::int64_t>> members;
  for (std::int64_t i = 0; i < ids.numel(); ++i) members[id[i]].push_back(i);
  std::vector<std::vector<std::int64_t>> result;
  for (auto& [number, positions] : members) result.push_back(std::move(positions));
  return result;
}

}  // namespace contraflow
