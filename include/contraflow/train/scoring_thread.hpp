#pragma once

/// @file
/// A thread that scores batches, one after the other.

#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <contraflow/reward/combination.hpp>

namespace contraflow {

/// Scores of an epoch's samples that are still computed, a sheet a batch.
using PendingScores = std::vector<std::future<ScoreSheet>>;

namespace detail {

/// Does what it is given in a thread of its own, in that order; when it goes, it ends what it is at
/// and leaves the rest.
class ScoringThread {
 public:
  ScoringThread() : thread_([this] { work(); }) {}
  ScoringThread(const ScoringThread&) = delete;
  ScoringThread& operator=(const ScoringThread&) = delete;
  ~ScoringThread() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  /// Puts something behind all that is still to be done.
  template <class Score>
  std::future<ScoreSheet> add(Score&& score) {
    std::packaged_task<ScoreSheet()> task(std::forward<Score>(score));
    auto sheet = task.get_future();
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
    return sheet;
  }
  /// Leaves what was not begun.
  void leave() {
    const std::lock_guard lock(mutex_);
    tasks_.clear();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return ends_ || !tasks_.empty(); });
      if (ends_) return;
      std::packaged_task<ScoreSheet()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::packaged_task<ScoreSheet()>> tasks_;
  bool ends_ = false;
  std::thread thread_;  ///< begins when all else is there
};

}  // namespace detail
}  // namespace contraflow
