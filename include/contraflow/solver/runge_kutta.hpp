#pragma once

/// @file
/// Explicit Runge-Kutta methods of any tableau, with fixed and with adaptive steps.

#include <algorithm>
#include <array>
#include <cmath>

#include <contraflow/solver/concept.hpp>

namespace contraflow {

/// Butcher tableaux of explicit Runge-Kutta methods: `a` strictly lower triangular, weights `b`,
/// nodes `c` (Hairer, Norsett, Wanner, Solving ODEs I). An embedded pair adds `error`, the
/// difference of its two rows of weights.
namespace tableau {

/// Order 1, one stage.
struct Euler {
  static constexpr int order = 1;  ///< of its error over a unit of sigma
  /// Weights of earlier slopes in each stage.
  static constexpr std::array<std::array<double, 1>, 1> a{};
  /// Weights of the slopes in the step.
  static constexpr std::array<double, 1> b{1};
  /// Where in the step each slope is taken.
  static constexpr std::array<double, 1> c{0};
};

/// Order 2, the slope at the middle.
struct Midpoint {
  static constexpr int order = 2;  ///< of its error over a unit of sigma
  /// Weights of earlier slopes in each stage.
  static constexpr std::array<std::array<double, 2>, 2> a{{{}, {0.5}}};
  /// Weights of the slopes in the step.
  static constexpr std::array<double, 2> b{0, 1};
  /// Where in the step each slope is taken.
  static constexpr std::array<double, 2> c{0, 0.5};
};

/// Order 2, the mean of the slopes at both ends.
struct Heun {
  static constexpr int order = 2;  ///< of its error over a unit of sigma
  /// Weights of earlier slopes in each stage.
  static constexpr std::array<std::array<double, 2>, 2> a{{{}, {1}}};
  /// Weights of the slopes in the step.
  static constexpr std::array<double, 2> b{0.5, 0.5};
  /// Where in the step each slope is taken.
  static constexpr std::array<double, 2> c{0, 1};
};

/// Kutta's method of order 3.
struct Kutta3 {
  static constexpr int order = 3;  ///< of its error over a unit of sigma
  /// Weights of earlier slopes in each stage.
  static constexpr std::array<std::array<double, 3>, 3> a{{{}, {0.5}, {-1, 2}}};
  /// Weights of the slopes in the step.
  static constexpr std::array<double, 3> b{1.0 / 6, 4.0 / 6, 1.0 / 6};
  /// Where in the step each slope is taken.
  static constexpr std::array<double, 3> c{0, 0.5, 1};
};

/// The classical method of order 4.
struct Rk4 {
  static constexpr int order = 4;  ///< of its error over a unit of sigma
  /// Weights of earlier slopes in each stage.
  static constexpr std::array<std::array<double, 4>, 4> a{{{}, {0.5}, {0, 0.5}, {0, 0, 1}}};
  /// Weights of the slopes in the step.
  static constexpr std::array<double, 4> b{1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};
  /// Where in the step each slope is taken.
  static constexpr std::array<double, 4> c{0, 0.5, 0.5, 1};
};

/// Dormand and Prince 1980, order 5 with an error estimate of order 4.
struct DormandPrince {
  static constexpr int order = 5;  ///< of its error over a unit of sigma
  /// Weights of earlier slopes in each stage.
  static constexpr std::array<std::array<double, 7>, 7> a{
      {{},
       {1.0 / 5},
       {3.0 / 40, 9.0 / 40},
       {44.0 / 45, -56.0 / 15, 32.0 / 9},
       {19372.0 / 6561, -25360.0 / 2187, 64448.0 / 6561, -212.0 / 729},
       {9017.0 / 3168, -355.0 / 33, 46732.0 / 5247, 49.0 / 176, -5103.0 / 18656},
       {35.0 / 384, 0, 500.0 / 1113, 125.0 / 192, -2187.0 / 6784, 11.0 / 84}}};
  /// Weights of the slopes in the step.
  static constexpr std::array<double, 7> b{35.0 / 384, 0, 500.0 / 1113, 125.0 / 192, -2187.0 / 6784,
                                           11.0 / 84,  0};
  /// Where in the step each slope is taken.
  static constexpr std::array<double, 7> c{0, 1.0 / 5, 3.0 / 10, 4.0 / 5, 8.0 / 9, 1, 1};
  /// Weights of the slopes in the estimate of the error.
  static constexpr std::array<double, 7> error{
      71.0 / 57600, 0, -71.0 / 16695, 71.0 / 1920, -17253.0 / 339200, 22.0 / 525, -1.0 / 40};
};

}  // namespace tableau

namespace detail {

/// The slopes of one step of length @p h from @p sigma.
template <class Tableau, class V>
auto slopes(V& velocity, const Tensor& x, double sigma, double h) {
  constexpr std::size_t stages = Tableau::b.size();
  std::array<Tensor, stages> k;
  for (std::size_t i = 0; i < stages; ++i) {
    Tensor at_stage = x;
    for (std::size_t j = 0; j < i; ++j) {
      if (Tableau::a[i][j] != 0) at_stage = at::add(at_stage, k[j], h * Tableau::a[i][j]);
    }
    k[i] = wide(velocity(at_stage, sigma + h * Tableau::c[i]));
  }
  return k;
}

template <std::size_t N>
Tensor combined(const std::array<Tensor, N>& k, const std::array<double, N>& weights, double h) {
  Tensor sum;
  for (std::size_t i = 0; i < N; ++i) {
    if (weights[i] == 0) continue;
    sum = sum.defined() ? at::add(sum, k[i], h * weights[i]) : k[i] * (h * weights[i]);
  }
  return sum;
}

}  // namespace detail

/// An explicit Runge-Kutta method with fixed steps, of any tableau.
///
/// Deterministic; one velocity a stage.
template <class Tableau>
struct RungeKutta {
  static constexpr int order = Tableau::order;  ///< that of the tableau
  /// Nothing is carried.
  struct State {};
  /// The state before the first step.
  State init(const Tensor&) const { return {}; }

  /// One step; draws no random numbers.
  template <class V>
  Tensor step(V& velocity, const Tensor& x, const Step& step, State&, Generator&) const {
    const double h = step.to - step.from;
    const auto k = detail::slopes<Tableau>(velocity, x, step.from, h);
    return x + detail::combined(k, Tableau::b, h);
  }
};

/// `x' = x + (sigma' - sigma) v`, order 1: also DDIM without noise and DPM-Solver++ of order 1.
using Euler = RungeKutta<tableau::Euler>;
/// Order 2, with the slope at the middle of the step.
using Midpoint = RungeKutta<tableau::Midpoint>;
/// Order 2, with the mean of the slopes at both ends.
using Heun = RungeKutta<tableau::Heun>;
/// The classical method of order 4.
using Rk4 = RungeKutta<tableau::Rk4>;

/// An embedded Runge-Kutta pair that chooses its own steps within each step of the grid.
///
/// The largest error of the batch decides, so that no sample is worse than asked for; samples of
/// one batch therefore share their steps. Deterministic.
template <class Tableau>
struct AdaptiveRungeKutta {
  static constexpr int order = Tableau::order;  ///< that of the tableau
  double relative_tolerance = 1e-5;             ///< above 0
  double absolute_tolerance = 1e-6;             ///< above 0
  int max_evaluations = 10000;                  ///< of the velocity, in one step of the grid

  /// The step size found so far (negative: sigma falls); 0 before the first step.
  struct State {
    double h = 0;  ///< signed step size
  };

  /// The state before the first step.
  /// @throws Error if a tolerance is not above 0
  State init(const Tensor&) const {
    expects(relative_tolerance > 0, "relative_tolerance", "above 0", relative_tolerance);
    expects(absolute_tolerance > 0, "absolute_tolerance", "above 0", absolute_tolerance);
    return {};
  }

  /// One step of the grid, in as many inner steps as the tolerance takes; draws no random numbers.
  /// @throws Error if max_evaluations do not suffice
  template <class V>
  Tensor step(V& velocity, Tensor x, const Step& step, State& state, Generator&) const {
    constexpr int stages = static_cast<int>(Tableau::b.size());
    double sigma = step.from;
    if (state.h == 0) state.h = (step.to - step.from) / 8;
    for (int used = 0; sigma > step.to; used += stages) {
      expects(used < max_evaluations, "max_evaluations", "enough velocities for the tolerance",
              max_evaluations);
      const bool reaches_end = sigma + state.h <= step.to;
      const double h = reaches_end ? step.to - sigma : state.h;
      const auto k = detail::slopes<Tableau>(velocity, x, sigma, h);
      const Tensor next = x + detail::combined(k, Tableau::b, h);
      const double error = error_norm(x, next, detail::combined(k, Tableau::error, h));
      if (error <= 1) {
        x = next;
        sigma = reaches_end ? step.to : sigma + h;
      }
      const double factor = error == 0 ? 5.0 : 0.9 * std::pow(error, -1.0 / order);
      const double proposed = h * std::clamp(factor, 0.2, 5.0);
      const bool cut_short = error <= 1 && reaches_end && std::abs(proposed) < std::abs(state.h);
      if (!cut_short) state.h = proposed;
    }
    return x;
  }

 private:
  /// Root mean square of the error over the tolerance, for the worst sample.
  double error_norm(const Tensor& x, const Tensor& next, const Tensor& error) const {
    const Tensor tolerance =
        absolute_tolerance + relative_tolerance * at::maximum(x.abs(), next.abs());
    return mean_per_sample((error / tolerance).square()).max().sqrt().template item<double>();
  }
};

/// Dormand-Prince 5(4) with adaptive steps.
using DormandPrince = AdaptiveRungeKutta<tableau::DormandPrince>;

}  // namespace contraflow
