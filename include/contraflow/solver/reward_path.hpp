#pragma once

/// @file
/// Ways from noise to clean samples that carry gradients: what a differentiable reward is given.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <contraflow/solver/integrate.hpp>
#include <contraflow/solver/runge_kutta.hpp>

namespace contraflow {

/// A solver whose steps before the last ones carry no gradient: of a chain of T steps the last K
/// are kept in autograd, whatever solver makes them.
template <class S>
struct LastStepsCarryGradient {
  using State = typename S::State;  ///< of the solver
  std::size_t count = 1;            ///< K; steps in front of the last K carry none
  S solver = {};                    ///< makes the steps

  /// The state before the first step.
  State init(const Tensor& x) const { return solver.init(x); }
  /// One step of the solver.
  template <class V>
  Tensor step(V& velocity, const Tensor& x, const Step& step, State& state,
              Generator& generator) const {
    const at::AutoGradMode gradient(at::GradMode::is_enabled() && step.index + count >= step.count);
    return solver.step(velocity, x, step, state, generator);
  }
};

namespace detail {

/// The state behind the first @p steps steps of a grid, by Euler's method and without gradient.
template <class V>
Tensor without_gradient(V& velocity, const Tensor& x, const TimeGrid& grid, std::size_t steps) {
  if (steps == 0) return wide(x);
  const at::NoGradGuard no_gradient;
  const auto& sigmas = grid.sigmas();
  const TimeGrid first({sigmas.begin(), sigmas.begin() + std::ptrdiff_t(steps) + 1});
  Generator unused = seeded(0);
  return integrate(Euler{}, velocity, x, first, unused);
}
inline void expects_step(std::size_t step, const TimeGrid& grid, const char* argument) {
  expects(step < grid.steps(), argument, "a step of the grid, counted from 0", step);
}

}  // namespace detail

/// ReFL (ImageReward, arXiv 2304.05977): the prediction of x0 at one step, `x - sigma v`, with the
/// gradient of that velocity alone; what comes before has none.
/// @param velocity a Velocity, in autograd
/// @param x noise [B, ...]
/// @param grid of the chain
/// @param step at which x0 is predicted, counted from 0 at the noisiest
/// @return x0 [B, ...]
/// @throws Error if there is no such step
template <class V>
Tensor refl_x0(V&& velocity, const Tensor& x, const TimeGrid& grid, std::size_t step) {
  detail::expects_step(step, grid, "step");
  const Tensor start = detail::without_gradient(velocity, x, grid, step);
  const double sigma = grid.step(step).from;
  return start - sigma * wide(velocity(start, sigma));
}

/// DRaFT-K (arXiv 2309.17400): the end of the whole chain, of which the last K steps carry
/// gradients.
/// @param solver a Solver, such as Euler
/// @param velocity a Velocity, in autograd
/// @param x noise [B, ...]
/// @param grid of the chain
/// @param last K, from 1 to the steps of the grid
/// @param generator of a stochastic solver
/// @return x0 [B, ...]
/// @throws Error if there are not as many steps
template <class S, class V>
Tensor draft_k_x0(const S& solver, V&& velocity, const Tensor& x, const TimeGrid& grid,
                  std::size_t last, Generator& generator) {
  expects(last >= 1 && last <= grid.steps(), "last",
          "a number of steps from 1 to those of the grid", last);
  return integrate(LastStepsCarryGradient<S>{last, solver}, velocity, x, grid, generator);
}

/// DRaFT-LV (arXiv 2309.17400): the end of the chain with the gradient of its last step, and
/// predictions of x0 from copies of it that are noised again, `(1 - sigma) x0 + sigma eps`, for an
/// estimate of the gradient that varies less.
/// @param velocity a Velocity, in autograd
/// @param x noise [B, ...]
/// @param grid of the chain
/// @param noise of the copies [m, B, ...]
/// @return x0 [(m + 1) B, ...], the end of the chain first
template <class V>
Tensor draft_lv_x0(V&& velocity, const Tensor& x, const TimeGrid& grid, const Tensor& noise) {
  Generator unused = seeded(0);
  const Tensor end = draft_k_x0(Euler{}, velocity, x, grid, 1, unused);
  const double sigma = grid.step(grid.steps() - 1).from;
  std::vector<Tensor> all{end};
  for (const Tensor& eps : noise.unbind(0)) {
    const Tensor noised = (1 - sigma) * end.detach() + sigma * eps;
    all.push_back(noised - sigma * wide(velocity(noised, sigma)));
  }
  return at::cat(all);
}

/// DRTune (arXiv 2405.00760): the prediction of x0 at a stop, with the gradients of some steps'
/// velocities, the input of each cut off: they reach x0 through the sum of steps and no product of
/// Jacobians.
/// @param velocity a Velocity, in autograd
/// @param x noise [B, ...]
/// @param grid of the chain
/// @param train_steps whose velocities carry gradients, counted from 0 at the noisiest
/// @param stop_step at which x0 is predicted
/// @return x0 [B, ...]
/// @throws Error if there is no such step
template <class V>
Tensor drtune_x0(V&& velocity, const Tensor& x, const TimeGrid& grid,
                 const std::vector<std::size_t>& train_steps, std::size_t stop_step) {
  detail::expects_step(stop_step, grid, "stop_step");
  for (const std::size_t step : train_steps) detail::expects_step(step, grid, "train_steps");
  const auto velocity_at = [&](const Tensor& state, std::size_t i) {
    const bool trains = std::find(train_steps.begin(), train_steps.end(), i) != train_steps.end();
    const at::AutoGradMode gradient(at::GradMode::is_enabled() && trains);
    return wide(velocity(state.detach(), grid.step(i).from));
  };
  Tensor state = wide(x);
  for (std::size_t i = 0; i < stop_step; ++i) {
    const Step step = grid.step(i);
    state = state + (step.to - step.from) * velocity_at(state, i);
  }
  return state - grid.step(stop_step).from * velocity_at(state, stop_step);
}

/// DRTune on a chain that is there already, see drtune_x0(): the prediction of x0 at its stop, with
/// the gradients of the velocities at some of its states, which are computed anew.
///
/// Where the states are those of Euler's steps along this velocity, value and gradient are those of
/// drtune_x0(), for as many evaluations as there are states.
/// @param velocity a Velocity, in autograd
/// @param states of the chain at the trained steps, [M, B, ...]
/// @param grid of the chain
/// @param steps their numbers, M of them, increasing; the last is the stop
/// @return x0 [B, ...]
/// @throws Error if there is no such step
template <class V>
Tensor drtune_x0_of(V&& velocity, const Tensor& states, const TimeGrid& grid,
                    const std::vector<std::size_t>& steps) {
  for (const std::size_t step : steps) detail::expects_step(step, grid, "steps");
  expects(!steps.empty() && states.size(0) == std::int64_t(steps.size()), "states",
          "one state for each of the steps, at least one", states.size(0));
  const auto velocity_at = [&](std::size_t k) {
    return wide(velocity(states[std::int64_t(k)], grid.step(steps[k]).from));
  };
  const std::size_t stop = steps.size() - 1;
  Tensor x0 = wide(states[std::int64_t(stop)]) - grid.step(steps[stop]).from * velocity_at(stop);
  for (std::size_t k = 0; k < stop; ++k) {
    const Step step = grid.step(steps[k]);
    const Tensor v = velocity_at(k);
    x0 = x0 + (step.to - step.from) * (v - v.detach());  // its value is in the state at the stop
  }
  return x0;
}

}  // namespace contraflow
