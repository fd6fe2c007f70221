// Loops on torch's threads: what is covered, by whom, and under which guards.

#include <atomic>
#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/core/parallel.hpp>

namespace cf = contraflow;

namespace {

// As many threads as the case asks for, and those of before behind it.
class Threads {
 public:
  explicit Threads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

// What a loop did.
struct Calls {
  std::vector<std::pair<std::int64_t, std::int64_t>> ranges;
  std::set<std::thread::id> threads;
};

Calls calls_of(std::int64_t count, std::int64_t grain = 1) {
  Calls calls;
  std::mutex mutex;
  cf::parallel_for(
      count,
      [&](std::int64_t begin, std::int64_t end) {
        const std::lock_guard lock(mutex);
        calls.ranges.emplace_back(begin, end);
        calls.threads.insert(std::this_thread::get_id());
      },
      grain);
  return calls;
}

// How often each number below @p count, and one more, was in a range.
std::vector<int> times_covered(std::int64_t count, const Calls& calls) {
  std::vector<int> times(std::size_t(count) + 1);
  for (const auto& [begin, end] : calls.ranges) {
    CHECK(begin < end);
    for (std::int64_t i = begin; i < end; ++i) ++times.at(std::size_t(i));
  }
  return times;
}

}  // namespace

TEST_CASE("a parallel loop covers its numbers once") {
  for (const int threads : {1, 2, 3, 5}) {
    const Threads guard(threads);
    for (const std::int64_t count : {0, 1, 2, 3, 4, 7, 64, 1000, 100003}) {
      for (const std::int64_t grain : {1, 2, 50}) {
        INFO(threads << " threads, " << count << " by " << grain);
        std::vector<int> once(std::size_t(count), 1);
        once.push_back(0);
        const Calls calls = calls_of(count, grain);
        CHECK(times_covered(count, calls) == once);
        CHECK(calls.ranges.size() <= std::size_t(threads));
      }
    }
  }
}

TEST_CASE("a parallel loop runs on several threads, on one only the caller's") {
  const std::thread::id caller = std::this_thread::get_id();
  {
    const Threads guard(2);
    const Calls calls = calls_of(8);
    CHECK(calls.ranges.size() == 2);
    CHECK(calls.threads.size() == 2);
    CHECK(calls.threads.contains(caller));
  }
  const Threads guard(1);
  const Calls calls = calls_of(8);
  CHECK(calls.ranges == std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 8}});
  CHECK(calls.threads == std::set{caller});
}

TEST_CASE("what is less than the grain is not worth a thread") {
  const Threads guard(4);
  CHECK(calls_of(6, 6).ranges.size() == 1);
  CHECK(calls_of(6, 100).ranges.size() == 1);
  CHECK(calls_of(7, 6).ranges.size() == 2);
  CHECK(calls_of(18, 6).ranges.size() == 3);
  CHECK(calls_of(1000, 6).ranges.size() == 4);
}

TEST_CASE("a loop within a parallel loop runs on the thread that it is in") {
  const Threads guard(2);
  std::atomic<int> outer = 0, inner = 0, elsewhere = 0;
  cf::parallel_for(2, [&](std::int64_t, std::int64_t) {
    ++outer;
    const std::thread::id here = std::this_thread::get_id();
    cf::parallel_for(100, [&](std::int64_t begin, std::int64_t end) {
      ++inner;
      elsewhere += std::this_thread::get_id() != here || begin != 0 || end != 100;
    });
  });
  CHECK(outer == 2);
  CHECK(inner == 2);
  CHECK(elsewhere == 0);
}

TEST_CASE("an exception within a parallel loop is thrown again, and the next loop runs") {
  for (const int threads : {1, 2}) {
    const Threads guard(threads);
    // The last number belongs to a thread that is not the caller's, where there is one.
    for (const std::int64_t bad : {0, 9}) {
      CHECK_THROWS_AS(cf::parallel_for(10,
                                       [&](std::int64_t begin, std::int64_t end) {
                                         if (begin <= bad && bad < end) {
                                           throw std::out_of_range("bad");
                                         }
                                       }),
                      std::out_of_range);
    }
    CHECK(times_covered(10, calls_of(10))[9] == 1);
  }
}

TEST_CASE("guards of the caller hold within a parallel loop, and end behind it") {
  const Threads guard(2);
  const auto with_gradient = [] {
    std::atomic<int> calls = 0, with = 0;
    cf::parallel_for(2, [&](std::int64_t, std::int64_t) {
      ++calls;
      with += at::GradMode::is_enabled();
    });
    CHECK(calls == 2);
    return with.load();
  };
  CHECK(with_gradient() == 2);
  {
    const at::NoGradGuard no_gradient;
    CHECK(with_gradient() == 0);
  }
  CHECK(with_gradient() == 2);
}

TEST_CASE("the loop that kernels are given is the same") {
  const Threads guard(3);
  CHECK(cf::TorchLoop::threads() == 3);
  std::vector<int> numbers(1000);
  std::atomic<int> calls = 0;
  const auto fill = [&](std::int64_t begin, std::int64_t end) {
    ++calls;
    for (std::int64_t i = begin; i < end; ++i) numbers[std::size_t(i)] += int(i);
  };
  cf::TorchLoop{}(1000, fill);
  CHECK(calls == 3);
  CHECK(std::accumulate(numbers.begin(), numbers.end(), 0) == 999 * 1000 / 2);
  calls = 0;
  cf::TorchLoop{.grain = 1000}(1000, fill);
  CHECK(calls == 1);
}
