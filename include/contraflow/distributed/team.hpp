#pragma once

/// @file
/// Ranks that are threads of one process.

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <contraflow/distributed/communicator.hpp>

namespace contraflow {

namespace detail {

/// What the ranks of a team share: a place for each to lay its tensors, and a barrier.
class TeamTable {
 public:
  explicit TeamTable(int ranks) : laid_(static_cast<std::size_t>(ranks)) {}

  int size() const { return static_cast<int>(laid_.size()); }

  /// Every rank lays its tensors; then every rank calls @p take(all) with those of all. The tensors
  /// stay untouched until all have taken.
  template <class Take>
  void exchange(int rank, std::vector<Tensor> own, Take&& take) {
    laid_[static_cast<std::size_t>(rank)] = std::move(own);
    meet();
    take(laid_);
    meet();
  }

  /// Ends the waiting of all ranks, now and later.
  void fail(const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (failure_.empty()) failure_ = why;
    all_here_.notify_all();
  }

 private:
  void meet() {
    std::unique_lock lock(mutex_);
    throw_if_failed();
    const std::uint64_t meeting = meeting_;
    if (++here_ == size()) {
      here_ = 0;
      ++meeting_;
      return all_here_.notify_all();
    }
    all_here_.wait(lock, [&] { return meeting != meeting_ || !failure_.empty(); });
    if (meeting == meeting_) throw_if_failed();
  }
  void throw_if_failed() const {
    if (!failure_.empty()) throw Error("rank", "all ranks to go on", failure_);
  }

  std::mutex mutex_;
  std::condition_variable all_here_;
  std::vector<std::vector<Tensor>> laid_;  ///< each written by its rank, between two meetings
  int here_ = 0;
  std::uint64_t meeting_ = 0;
  std::string failure_;
};

}  // namespace detail

/// A rank of a Team: a Communicator.
class TeamRank {
 public:
  /// Made by a Team.
  TeamRank(std::shared_ptr<detail::TeamTable> table, int rank)
      : table_(std::move(table)), rank_(rank) {}

  /// Which of the ranks.
  int rank() const { return rank_; }
  /// Number of ranks.
  int size() const { return table_->size(); }

  /// Adds up over the ranks, in their order, in place.
  void sum(const std::vector<Tensor>& tensors) const {
    const at::NoGradGuard no_gradient;
    sent_.add(tensors);
    std::vector<Tensor> sums;
    table_->exchange(rank_, tensors, [&](const auto& laid) { sums = sums_of(laid); });
    for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].copy_(sums[i]);
  }
  /// Adds up over the ranks, in their order, in place on one of them.
  void sum_to(const std::vector<Tensor>& tensors, int rank) const {
    const at::NoGradGuard no_gradient;
    if (rank_ != rank) sent_.add(tensors);
    std::vector<Tensor> sums;
    table_->exchange(rank_, tensors, [&](const auto& laid) {
      if (rank_ == rank) sums = sums_of(laid);
    });
    for (std::size_t i = 0; i < sums.size(); ++i) tensors[i].copy_(sums[i]);
  }
  /// The rows of all ranks, in their order.
  Tensor gather(const Tensor& rows) const {
    sent_.add({rows});
    Tensor all;
    table_->exchange(rank_, {rows}, [&](const auto& laid) {
      std::vector<Tensor> parts;
      for (const auto& of_rank : laid) parts.push_back(of_rank[0]);
      all = at::cat(parts);
    });
    return all;
  }
  /// The values of rank 0, in place.
  void broadcast(const std::vector<Tensor>& tensors) const { broadcast_from(tensors, 0); }
  /// The values of one rank, in place.
  void broadcast_from(const std::vector<Tensor>& tensors, int rank) const {
    const at::NoGradGuard no_gradient;
    if (rank_ == rank) sent_.add(tensors);
    table_->exchange(rank_, tensors, [&](const auto& laid) {
      if (rank_ == rank) return;
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        tensors[i].copy_(laid[std::size_t(rank)][i]);
      }
    });
  }
  /// Whether any rank says so.
  bool agree(bool flag) const {
    bool any = false;
    table_->exchange(rank_, {at::full({}, flag, at::kBool)}, [&](const auto& laid) {
      for (const auto& of_rank : laid) any = any || of_rank[0].template item<bool>();
    });
    return any;
  }
  /// Bytes of tensors that this rank has laid out for the others so far.
  std::int64_t bytes_sent() const { return sent_.count(); }

 private:
  /// The sums of what all ranks have laid.
  static std::vector<Tensor> sums_of(const std::vector<std::vector<Tensor>>& laid) {
    std::vector<Tensor> sums;
    for (std::size_t i = 0; i < laid[0].size(); ++i) {
      sums.push_back(laid[0][i].clone());
      for (std::size_t rank = 1; rank < laid.size(); ++rank) sums.back().add_(laid[rank][i]);
    }
    return sums;
  }

  std::shared_ptr<detail::TeamTable> table_;
  int rank_;
  detail::SentBytes sent_;
};

/// Ranks that are threads of one process: for tests, and where a program's own threads are to train
/// together.
///
/// `cf::Team(4).run([](cf::TeamRank rank) { ... });`. Each rank has a policy of its own; what they
/// share otherwise must bear several threads.
class Team {
 public:
  /// @param ranks number of threads
  /// @throws Error if it is below 1
  explicit Team(int ranks) : ranks_(ranks) { expects_at_least_one(ranks, "ranks"); }

  /// Calls @p body(rank) in a thread for each rank, and waits for all.
  ///
  /// A rank that throws ends the others where they next wait for it.
  /// @throws what the first rank that failed has thrown
  template <class Body>
  void run(Body&& body) const {
    const auto table = std::make_shared<detail::TeamTable>(ranks_);
    std::mutex mutex;
    std::exception_ptr first;
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks_; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          body(TeamRank(table, rank));
        } catch (const std::exception& failure) {
          const std::lock_guard lock(mutex);
          if (!first) first = std::current_exception();
          table->fail("the failure of rank " + std::to_string(rank) + " (" + failure.what() + ")");
        } catch (...) {
          const std::lock_guard lock(mutex);
          if (!first) first = std::current_exception();
          table->fail("the failure of rank " + std::to_string(rank));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (first) std::rethrow_exception(first);
  }

 private:
  int ranks_;
};

}  // namespace contraflow
