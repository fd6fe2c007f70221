// Wall-clock time.

#include <chrono>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/core/stopwatch.hpp>

TEST_CASE("a stopwatch counts what the clock counts, each from its own start") {
  const auto begin = std::chrono::steady_clock::now();
  const contraflow::Stopwatch watch;
  double passed = 0;
  while (passed < 0.02) {
    passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  const double seconds = watch.seconds();
  const double most =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  CHECK(seconds > 0);
  CHECK(seconds <= most);
  CHECK(contraflow::Stopwatch().seconds() < seconds);
}
