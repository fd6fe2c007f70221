#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>

namespace support {

/// Threads that work off a list of jobs; a job may add more.
class Workers {
 public:
  using Job = std::function<void()>;

  /// Jobs of a lower @p rank go first, those of one rank in the order they came.
  void add(int rank, Job job) {
    const std::lock_guard lock(mutex_);
    jobs_.emplace(rank, std::move(job));
    changed_.notify_one();
  }

  /// Returns when the list is empty and no job is under way.
  /// @throws what a job threw first; jobs that had not begun by then are dropped
  void run(int threads) {
    {
      std::vector<std::jthread> pool;
      for (int i = 0; i < threads; ++i) pool.emplace_back([this] { work(); });
    }
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void work() {
    at::set_num_threads(1);  // of LibTorch's own, within this worker
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return !jobs_.empty() || busy_ == 0; });
      if (jobs_.empty()) return;
      const Job job = std::move(jobs_.extract(jobs_.begin()).mapped());
      ++busy_;
      lock.unlock();
      attempt(job);
      lock.lock();
      if (--busy_ == 0) changed_.notify_all();
    }
  }

  void attempt(const Job& job) {
    try {
      job();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      jobs_.clear();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::multimap<int, Job> jobs_;
  int busy_ = 0;
  std::exception_ptr failure_;
};

}  // namespace support
