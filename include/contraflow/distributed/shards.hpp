#pragma once

/// @file
/// Tensors that are divided between ranks: each of them is one rank's.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include <contraflow/distributed/communicator.hpp>

namespace contraflow {

/// Adds up over the ranks, in place on one of them: collective. What the others have afterwards is
/// of no use. By the communicator's `sum_to`, or else its `sum`.
/// @param communicator of the ranks
/// @param tensors as for `sum`
/// @param rank that has the sums
template <Communicator Comm>
void sum_to(const Comm& communicator, const std::vector<Tensor>& tensors, int rank) {
  if constexpr (HasSumTo<Comm>) {
    communicator.sum_to(tensors, rank);
  } else {
    communicator.sum(tensors);
  }
}

/// The values of one rank on all, in place: collective. By the communicator's `broadcast_from`, or
/// else its `gather`, to which the others give nothing.
/// @param communicator of the ranks
/// @param tensors as for `broadcast`
/// @param rank whose values they become
template <Communicator Comm>
void broadcast_from(const Comm& communicator, const std::vector<Tensor>& tensors, int rank) {
  if constexpr (HasBroadcastFrom<Comm>) {
    communicator.broadcast_from(tensors, rank);
  } else {
    const bool is_own = communicator.rank() == rank;
    for (const Tensor& tensor : tensors) {
      const Tensor row = tensor.detach().unsqueeze(0);
      const Tensor all = communicator.gather(is_own ? row : row.slice(0, 0, 0));
      if (!is_own) tensor.detach().copy_(all[0]);
    }
  }
}

/// Which rank has which of some tensors, as evenly as whole tensors can be: the largest first, each
/// to who has least.
/// @param sizes of the tensors
/// @param loads what each rank has already, one number a rank; is added to
/// @return the rank of each tensor
inline std::vector<int> balanced_owners(const std::vector<std::int64_t>& sizes,
                                        std::vector<std::int64_t>& loads) {
  std::vector<std::size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return sizes[a] > sizes[b]; });
  std::vector<int> owners(sizes.size());
  for (const std::size_t i : order) {
    const auto least = std::min_element(loads.begin(), loads.end());
    *least += sizes[i];
    owners[i] = static_cast<int>(least - loads.begin());
  }
  return owners;
}

/// Tensors of one owner that are sent together.
struct Bucket {
  int owner = 0;                          ///< a rank
  std::vector<std::size_t> tensors = {};  ///< positions in the list that is divided
};

/// Divides tensors into buckets of one owner and a bounded size: what a message is copied into is
/// then small beside the tensors.
/// @param tensors of which shape and dtype count
/// @param owners the rank of each
/// @param most bytes of a bucket, which a single larger tensor exceeds
/// @return the same on all ranks, every tensor in one of them
inline std::vector<Bucket> buckets_of(const std::vector<Tensor>& tensors,
                                      const std::vector<int>& owners,
                                      std::int64_t most = std::int64_t{1} << 25) {
  std::vector<Bucket> buckets;
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return owners[a] < owners[b]; });
  std::int64_t bytes = 0;
  for (const std::size_t i : order) {
    const auto size = static_cast<std::int64_t>(tensors[i].nbytes());
    const bool fits = !buckets.empty() && buckets.back().owner == owners[i] && bytes + size <= most;
    if (!fits) {
      buckets.push_back({owners[i], {}});
      bytes = 0;
    }
    buckets.back().tensors.push_back(i);
    bytes += size;
  }
  return buckets;
}

/// The tensors of a bucket.
inline std::vector<Tensor> tensors_of(const Bucket& bucket, const std::vector<Tensor>& all) {
  std::vector<Tensor> own;
  for (const std::size_t i : bucket.tensors) own.push_back(all[i]);
  return own;
}

/// A tensor of a state that is divided between ranks.
struct StatePart {
  std::string name;    ///< in the state
  int owner = 0;       ///< the rank that has it
  Tensor values = {};  ///< where this rank has it
  Tensor like = {};    ///< a tensor of its shape, dtype and device
};

/// The values of a part on all ranks: collective.
template <Communicator Comm>
Tensor whole_of(const Comm& communicator, const StatePart& part) {
  const Tensor whole = part.values.defined() ? part.values.detach()
                                             : at::empty(part.like.sizes(), part.like.options());
  broadcast_from(communicator, {whole}, part.owner);
  return whole;
}

}  // namespace contraflow
