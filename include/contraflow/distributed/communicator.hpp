#pragma once

/// @file
/// The concept Communicator, and the one rank that is alone.

#include <atomic>
#include <concepts>
#include <cstdint>
#include <memory>
#include <vector>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// `c.rank()` and `c.size()`: which of how many.
template <class T>
concept HasRank = requires(const T& communicator) {
  { communicator.rank() } -> std::same_as<int>;
  { communicator.size() } -> std::same_as<int>;
};
/// `c.sum(tensors)`: adds up over the ranks, in place.
template <class T>
concept HasSum = requires(const T& communicator, const std::vector<Tensor>& tensors) {
  communicator.sum(tensors);
};
/// `c.gather(rows)`: the rows of all ranks.
template <class T>
concept HasGather = requires(const T& communicator, const Tensor& rows) {
  { communicator.gather(rows) } -> std::same_as<Tensor>;
};
/// `c.broadcast(tensors)`: the values of rank 0, in place.
template <class T>
concept HasBroadcast = requires(const T& communicator, const std::vector<Tensor>& tensors) {
  communicator.broadcast(tensors);
};
/// `c.agree(flag)`: whether any rank says so.
template <class T>
concept HasAgree = requires(const T& communicator, bool flag) {
  { communicator.agree(flag) } -> std::same_as<bool>;
};

/// `c.bytes_sent()`: what this rank has given to others so far. A trainer that finds it reports
/// what an epoch took.
template <class T>
concept HasBytesSent = requires(const T& communicator) {
  { communicator.bytes_sent() } -> std::same_as<std::int64_t>;
};

/// `c.sum_to(tensors, rank)`: adds up over the ranks, in place on that rank; what the others have
/// afterwards is of no use.
template <class T>
concept HasSumTo = requires(const T& communicator, const std::vector<Tensor>& tensors, int rank) {
  communicator.sum_to(tensors, rank);
};
/// `c.broadcast_from(tensors, rank)`: the values of that rank, in place.
template <class T>
concept HasBroadcastFrom = requires(const T& communicator, const std::vector<Tensor>& tensors,
                                    int rank) {
  communicator.broadcast_from(tensors, rank);
};

/// Several processes, or threads, that train one policy together: a component of a trainer.
///
/// A handle that is copied freely; copies speak for the same rank. Valid expressions: those of
/// HasRank, HasSum, HasGather, HasBroadcast and HasAgree. All but the first are collective: every
/// rank calls them, in the same order. Laws (tests/laws/communicator.hpp): ranks count from 0 to
/// size - 1; sum, gather, broadcast and agree give every rank the same bits, and for a fixed number
/// of ranks the same each time. Optional: HasBytesSent; HasSumTo and HasBroadcastFrom, with which
/// a ShardedPolicy sends less.
/// @par Shape
/// `sum` and `broadcast` take defined tensors, the same number with the same shapes and dtypes on
/// every rank; `gather` takes [B_r, ...] where only B_r may differ, 0 included, and gives
/// [B_0 + B_1 + ..., ...] in the order of the ranks, on the device of @p rows
template <class T>
concept Communicator =
    std::copyable<T> && HasRank<T> && HasSum<T> && HasGather<T> && HasBroadcast<T> && HasAgree<T>;

/// Whether somebody meant @p T as a Communicator.
template <class T>
concept MeantAsCommunicator = HasRank<T>;

/// Says in a sentence why @p T is not a Communicator.
template <class T>
consteval bool explain_communicator() {
  static_assert(HasRank<T>,
                "contraflow: a Communicator must have `int rank() const` and `int size() const`");
  static_assert(HasSum<T>,
                "contraflow: a Communicator must have `sum(tensors) const`, which adds up tensors "
                "over all ranks in place");
  static_assert(HasGather<T>,
                "contraflow: a Communicator must have `Tensor gather(rows) const`, the rows of all "
                "ranks in their order");
  static_assert(HasBroadcast<T>,
                "contraflow: a Communicator must have `broadcast(tensors) const`, which gives "
                "every rank the values of rank 0 in place");
  static_assert(HasAgree<T>,
                "contraflow: a Communicator must have `bool agree(flag) const`, whether any rank "
                "says so");
  static_assert(std::copyable<T>,
                "contraflow: a Communicator must be copyable: make it a handle, such as a "
                "shared_ptr to what cannot be copied");
  return true;
}

/// One process: the communicator of trainers that are given none. Nothing is sent, and what is only
/// there for several ranks is not compiled.
struct Alone {
  int rank() const { return 0; }                                   ///< 0
  int size() const { return 1; }                                   ///< 1
  void sum(const std::vector<Tensor>& /*tensors*/) const {}        ///< they are the sums
  Tensor gather(const Tensor& rows) const { return rows; }         ///< these are all
  void broadcast(const std::vector<Tensor>& /*tensors*/) const {}  ///< they are rank 0's
  bool agree(bool flag) const { return flag; }                     ///< its own opinion
};

/// Whether a communicator never has more than one rank.
template <class T>
inline constexpr bool is_alone = std::derived_from<T, Alone>;

namespace detail {

/// Counts what a rank gives to others, as it was given to whoever sends it; copies count together.
class SentBytes {
 public:
  void add(std::int64_t bytes) const { bytes_->fetch_add(bytes, std::memory_order_relaxed); }
  void add(const std::vector<Tensor>& tensors) const {
    for (const Tensor& tensor : tensors) add(std::int64_t(tensor.nbytes()));
  }
  std::int64_t count() const { return bytes_->load(std::memory_order_relaxed); }

 private:
  std::shared_ptr<std::atomic<std::int64_t>> bytes_ =
      std::make_shared<std::atomic<std::int64_t>>(0);
};

}  // namespace detail

/// A part of 0 ... n - 1.
struct Share {
  std::int64_t first = 0;  ///< of it
  std::int64_t last = 0;   ///< behind it

  std::int64_t size() const { return last - first; }  ///< of the part
};

/// What of @p count things is a rank's: parts in the order of the ranks, none larger than another
/// by more than one, maybe none.
inline Share share_of(std::int64_t count, int rank, int ranks) {
  return {count * rank / ranks, count * (rank + 1) / ranks};
}

}  // namespace contraflow
