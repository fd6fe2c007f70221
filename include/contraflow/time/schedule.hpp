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

/// `value` until `start`, then `value + slope (step - start)`, at most `end`: the decays of CRD
/// (arXiv 2603.14128) and DGPO (arXiv 2510.08425).
///
/// Published for CRD: `Linear{.value = 0.25, .slope = 0.005, .end = 0.999}` of the old policy,
/// `Linear{.start = 75, .slope = 0.0075, .end = 0.999}` of the one that samples. For DGPO:
/// `Linear{.slope = 0.001, .end = 0.3}`.
struct Linear {
  std::int64_t start = 0;  ///< steps before it rises
  double value = 0;        ///< until then
  double slope = 0.001;    ///< rise a step
  double end = 1;          ///< greatest value
  /// The value at gradient step @p step.
  double operator()(std::int64_t step) const {
    const double risen = step < start ? 0 : slope * static_cast<double>(step - start);
    return std::min(value + risen, end);
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

/// A learning rate's whole life in a run of known length: it rises in a straight line over the
/// first steps, and falls along half a cosine from 1 to `last`, where it stays.
///
/// `min(1, (i + 1) / warm_up) (last + (1 - last) (1 + cos(pi i / steps)) / 2)`.
struct Cosine {
  double steps = 1000;  ///< until it has fallen to `last`, above 0
  double warm_up = 0;   ///< steps until it has risen; 0: it begins at 1
  double last = 0;      ///< what is left in the end
  /// The value at gradient step @p step.
  double operator()(std::int64_t step) const {
    const auto i = static_cast<double>(step);
    const double risen = i + 1 < warm_up ? (i + 1) / warm_up : 1;
    const double wave = i < steps ? (1 + std::cos(M_PI * i / steps)) / 2 : 0;
    return risen * std::lerp(last, 1.0, wave);
  }
};

}  // namespace contraflow
