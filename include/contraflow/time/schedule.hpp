#pragma once

/// @file
/// Numbers that depend on the count of gradient steps.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>

namespace contraflow {

/// A number that depends on the count of gradient steps so far: a decay or a factor.
using Schedule = std::function<double(std::int64_t step)>;

/// The same value at every step.
struct Constant {
  double value = 0;  ///< at every step
  /// The value.
  double operator()(std::int64_t) const { return value; }
};

/// 0 for the first `flat` steps, then rising by `rate` a step up to `max`.
///
/// The published schedules of the old policy (DiffusionNFT) are `Constant{0}` (type 0),
/// `Ramp{.rate = 0.001, .max = 0.5}` (type 1) and `Ramp{.rate = 0.0075, .max = 0.999, .flat = 75}`
/// (type 2).
struct Ramp {
  double rate = 0.001;    ///< rise a step
  double max = 0.5;       ///< greatest value
  std::int64_t flat = 0;  ///< steps before it rises
  /// The value at gradient step @p step.
  double operator()(std::int64_t step) const {
    return step < flat ? 0.0 : std::min(rate * static_cast<double>(step - flat), max);
  }
};

/// `min((1 + i) / (10 + i), max)`: an average that forgets its start quickly (DiffusionNFT).
struct WarmingUp {
  double max = 0.9;  ///< greatest value
  /// The value at gradient step @p step.
  double operator()(std::int64_t step) const {
    const auto i = static_cast<double>(step);
    return std::min((1 + i) / (10 + i), max);
  }
};

/// `1 / sqrt(1 + i / steps)`: a learning rate that falls as the inverse root of the steps, whatever
/// their number will be in the end. What is noise in the gradients then averages out.
struct InverseRoot {
  double steps = 20;  ///< until it has fallen to 0.71; 0 or less: it stays 1
  /// The value at gradient step @p step.
  double operator()(std::int64_t step) const {
    return steps > 0 ? 1 / std::sqrt(1 + static_cast<double>(step) / steps) : 1.0;
  }
};

}  // namespace contraflow
