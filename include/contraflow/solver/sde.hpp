#pragma once

/// @file
/// Stochastic solvers of one evaluation a step.

#include <algorithm>
#include <cmath>

#include <contraflow/solver/concept.hpp>

namespace contraflow {

/// What a stochastic solver leaves after a step: the mean of the transition.
struct TransitionState {
  Tensor mean;  ///< of the step just made [B, ...]
};

/// Flow-GRPO's SDE (Liu and others, 2025, arXiv 2505.05470): noise that keeps the ODE's marginals.
///
/// With `s = noise_level sqrt(sigma / (1 - sigma))` (at sigma = 1 the denominator takes the next
/// sigma) and `dt = sigma' - sigma`: mean `x (1 + s^2 dt / (2 sigma)) + v dt (1 + s^2 (1 - sigma) /
/// (2 sigma))`, std `s sqrt(-dt)`. Draws one normal number an element and step.
struct FlowSde {
  double noise_level = 0.7;  ///< above 0; 0 is Euler

  using State = TransitionState;  ///< the mean of the step just made
  /// The state before the first step.
  /// @throws Error if an option is out of range
  State init(const Tensor&) const {
    expects(noise_level >= 0, "noise_level", "at least 0", noise_level);
    return {};
  }
  /// The Gaussian of a step.
  Transition transition(const Step& step) const {
    const double sigma = step.from;
    const double dt = step.to - sigma;
    const double s = noise_level * std::sqrt(sigma / (1 - (sigma == 1 ? step.to : sigma)));
    const double drift = s * s * dt / (2 * sigma);
    return Transition::gaussian(1 + drift, dt + drift * (1 - sigma), s * std::sqrt(-dt));
  }
  /// One step; draws a normal number an element unless the step is deterministic.
  template <class V>
  Tensor step(V& velocity, const Tensor& x, const Step& step, State& state, Generator& g) const {
    return step_by_transition(*this, velocity, x, step, state, g);
  }
};

/// DanceGRPO's SDE (Xue and others, 2025, arXiv 2505.07818): noise of constant strength.
///
/// The SDE of FlowSde with `s = noise_level` at all times. Its log-density here has the constants
/// of the Gaussian, which a published implementation drops by accident.
struct DanceSde {
  double noise_level = 0.3;  ///< above 0; 0 is Euler

  using State = TransitionState;  ///< the mean of the step just made
  /// The state before the first step.
  /// @throws Error if an option is out of range
  State init(const Tensor&) const {
    expects(noise_level >= 0, "noise_level", "at least 0", noise_level);
    return {};
  }
  /// The Gaussian of a step.
  Transition transition(const Step& step) const {
    const double sigma = step.from;
    const double dt = step.to - sigma;
    const double drift = noise_level * noise_level * dt / (2 * sigma);
    return Transition::gaussian(1 + drift, dt + drift * (1 - sigma), noise_level * std::sqrt(-dt));
  }
  /// One step; draws a normal number an element unless the step is deterministic.
  template <class V>
  Tensor step(V& velocity, const Tensor& x, const Step& step, State& state, Generator& g) const {
    return step_by_transition(*this, velocity, x, step, state, g);
  }
};

namespace detail {
/// The transition whose mean is `on_x0 x0 + on_eps eps`, with both predicted from the velocity.
inline Transition from_predictions(double sigma, double on_x0, double on_eps, double std) {
  return Transition::gaussian(on_x0 + on_eps, on_eps * (1 - sigma) - on_x0 * sigma, std);
}
}  // namespace detail

/// Coefficients-preserving sampling (Flow-CPS, Wang and others, 2025, arXiv 2509.05952).
///
/// `std = sigma' sin(pi noise_level / 2)`, mean `(1 - sigma') x0 + sqrt(sigma'^2 - std^2) eps`: the
/// next state has exactly the noise that its sigma says. As published, its log-density is
/// `-mean (x' - mean)^2`.
struct Cps {
  double noise_level = 0.7;  ///< in [0, 1]

  using State = TransitionState;  ///< the mean of the step just made
  /// The state before the first step.
  /// @throws Error if an option is out of range
  State init(const Tensor&) const {
    expects(noise_level >= 0 && noise_level <= 1, "noise_level", "a value in [0, 1]", noise_level);
    return {};
  }
  /// The Gaussian of a step.
  Transition transition(const Step& step) const {
    const double std = step.to * std::sin(std::numbers::pi * noise_level / 2);
    const double kept = std::sqrt(std::max(0.0, step.to * step.to - std * std));
    Transition result = detail::from_predictions(step.from, 1 - step.to, kept, std);
    if (result.is_stochastic()) {
      result.log_density_scale = -1;
      result.log_density_offset = 0;
    }
    return result;
  }
  /// One step; draws a normal number an element unless the step is deterministic.
  template <class V>
  Tensor step(V& velocity, const Tensor& x, const Step& step, State& state, Generator& g) const {
    return step_by_transition(*this, velocity, x, step, state, g);
  }
};

/// DDIM (Song and others, 2021) on the rectified flow, with eta between the ODE (0) and DDPM (1).
///
/// `rho = eta sigma' sqrt(1 - (sigma' (1 - sigma) / (sigma (1 - sigma')))^2)`, mean
/// `(1 - sigma') x0 + sqrt(sigma'^2 - rho^2) eps`, std rho. The last step of a grid that ends at 0
/// is deterministic.
struct Ddim {
  double eta = 0;  ///< in [0, 1]

  using State = TransitionState;  ///< the mean of the step just made
  /// The state before the first step.
  /// @throws Error if an option is out of range
  State init(const Tensor&) const {
    expects(eta >= 0 && eta <= 1, "eta", "a value in [0, 1]", eta);
    return {};
  }
  /// The Gaussian of a step.
  Transition transition(const Step& step) const {
    const double ratio = step.to * (1 - step.from) / (step.from * (1 - step.to));
    const double rho = eta * step.to * std::sqrt(1 - ratio * ratio);
    const double kept = std::sqrt(std::max(0.0, step.to * step.to - rho * rho));
    return detail::from_predictions(step.from, 1 - step.to, kept, rho);
  }
  /// One step; draws a normal number an element unless the step is deterministic.
  template <class V>
  Tensor step(V& velocity, const Tensor& x, const Step& step, State& state, Generator& g) const {
    return step_by_transition(*this, velocity, x, step, state, g);
  }
};

}  // namespace contraflow
