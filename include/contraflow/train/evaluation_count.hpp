#pragma once

/// @file
/// Counts of velocities.

#include <cstdint>

namespace contraflow {

/// Counts velocities: one for each sample and role.
struct EvaluationCount {
  std::int64_t forward = 0;   ///< computed
  std::int64_t backward = 0;  ///< of these, differentiated

  /// Adds others.
  EvaluationCount& operator+=(const EvaluationCount& more) {
    forward += more.forward;
    backward += more.backward;
    return *this;
  }
};

}  // namespace contraflow
