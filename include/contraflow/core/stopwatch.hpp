#pragma once

/// @file
/// Wall-clock time.

#include <chrono>

namespace contraflow {

/// Seconds since it was made, by a clock that nobody sets.
class Stopwatch {
 public:
  /// At least 0, and never less than before.
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace contraflow
