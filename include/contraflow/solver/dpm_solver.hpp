#pragma once

/// @file
/// Multistep DPM-Solver++.

#include <array>
#include <cmath>
#include <limits>

#include <contraflow/solver/runge_kutta.hpp>

namespace contraflow {

/// Multistep DPM-Solver++ with data prediction (Lu and others, 2022, arXiv 2211.01095).
///
/// With `alpha = 1 - sigma`, `lambda = log(alpha / sigma)`, `h = lambda' - lambda` and earlier
/// predictions of x0 the step is
/// `x' = (sigma' / sigma) x - alpha' (exp(-h) - 1) D0 - 1/2 alpha' (exp(-h) - 1) D1` for order 2
/// (midpoint), and its known extension for order 3. One velocity a step.
///
/// Order 2 begins and ends as published: with a step of order 1 each (which is DDIM); at the
/// second step the earlier sigma is 1, its log-SNR minus infinity, and the correction vanishes.
/// Order 3 begins with two steps of Kutta's method of order 3 (three velocities each), since a
/// start of lower order would bound its order by 2, and ends with order 1 only where the grid
/// ends at 0. Deterministic.
template <int Order>
struct DpmSolver {
  static_assert(Order >= 1 && Order <= 3, "contraflow: DpmSolver has orders 1, 2 and 3");
  static constexpr int order = Order;  ///< of the method

  /// Predictions of x0 at the latest steps with their sigmas, the latest first.
  struct State {
    std::array<Tensor, Order> x0;       ///< predictions [B, ...]
    std::array<double, Order> sigma{};  ///< at which they were made
    int known = 0;                      ///< how many there are
  };
  /// The state before the first step: nothing is known.
  State init(const Tensor&) const { return {}; }

  /// One step; draws no random numbers.
  template <class V>
  Tensor step(V& velocity, const Tensor& x, const Step& step, State& state, Generator&) const {
    const Tensor v = wide(velocity(x, step.from));
    remember(state, at::add(x, v, -step.from), step.from);
    if constexpr (Order == 3) {
      if (state.known < 3 && step.to > 0) return started(velocity, x, step);
    }
    if (uses_first_order(step, state)) return at::add(x, v, step.to - step.from);
    const Coefficients on = coefficients(step, state);
    Tensor next = at::add(x * on.x, state.x0[0], on.x0[0]);
    for (std::size_t i = 1; i < Order; ++i) {
      if (on.x0[i] != 0) next.add_(state.x0[i], on.x0[i]);
    }
    return next;
  }

 private:
  struct Coefficients {
    double x;
    std::array<double, 3> x0;
  };

  static void remember(State& state, Tensor x0, double sigma) {
    for (std::size_t i = Order - 1; i > 0; --i) {
      state.x0[i] = std::move(state.x0[i - 1]);
      state.sigma[i] = state.sigma[i - 1];
    }
    state.x0[0] = std::move(x0);
    state.sigma[0] = sigma;
    state.known = std::min(state.known + 1, Order);
  }

  template <class V>
  static Tensor started(V& velocity, const Tensor& x, const Step& step) {
    const double h = step.to - step.from;
    const auto k = detail::slopes<tableau::Kutta3>(velocity, x, step.from, h);
    return x + detail::combined(k, tableau::Kutta3::b, h);
  }

  /// The step of order 1 is exact in x and v, so it is also the one at infinite log-SNR.
  static bool uses_first_order(const Step& step, const State& state) {
    if (Order == 1 || state.known < 2 || step.to == 0) return true;
    return Order == 2 && step.is_last();
  }

  static double log_snr(double sigma) { return std::log1p(-sigma) - std::log(sigma); }

  static Coefficients coefficients(const Step& step, const State& state) {
    const double lambda = log_snr(step.from);
    const double h = log_snr(step.to) - lambda;
    const double alpha = 1 - step.to;
    const double decay = std::expm1(-h);
    const double to_first = (lambda - log_snr(state.sigma[1])) / h;
    // Slope of x0 over the last interval; 0 where that interval reaches to infinity.
    const double slope = std::isinf(to_first) ? 0 : 1 / to_first;
    Coefficients on{step.to / step.from, {-alpha * decay, 0, 0}};
    if (Order == 2 || state.known < 3) {
      on.x0[0] += -0.5 * alpha * decay * slope;
      on.x0[1] = 0.5 * alpha * decay * slope;
      return on;
    }
    add_third_order(on, state, h, alpha, to_first, slope);
    return on;
  }

  /// Newton's divided differences of x0 over the last three steps.
  static void add_third_order(Coefficients& on, const State& state, double h, double alpha,
                              double r0, double slope0) {
    const double r1 = (log_snr(state.sigma[1]) - log_snr(state.sigma[Order - 1])) / h;
    const double slope1 = std::isinf(r1) ? 0 : 1 / r1;
    const double curvature = std::isinf(r0 + r1) ? 0 : 1 / (r0 + r1);
    const double decay = std::expm1(-h);
    const double first = alpha * (decay / h + 1);
    // Twice the factor of the published code, which makes an order of 2: D2 is half of h^2 x0''.
    const double second = -alpha * (2 * (decay + h) / (h * h) - 1);
    // D1 = d0 + r0 curvature (d0 - d1), D2 = curvature (d0 - d1) with d0 = slope0 (m0 - m1) and
    // d1 = slope1 (m1 - m2).
    const double on_d1 = -(first * (std::isinf(r0) ? 0 : r0 * curvature) + second * curvature);
    const double on_d0 = first - on_d1;
    on.x0[0] += on_d0 * slope0;
    on.x0[1] += on_d1 * slope1 - on_d0 * slope0;
    on.x0[2] -= on_d1 * slope1;
  }
};

}  // namespace contraflow
