#pragma once

/// @file
/// The only loop over the steps of a grid.

#include <contraflow/solver/concept.hpp>

namespace contraflow {

/// The hook that watches nothing.
struct NoHook {
  /// Does nothing.
  template <class State>
  void operator()(const Step&, const Tensor&, const Tensor&, const State&) const {}
};

/// Follows a velocity from noise to data: the only loop over steps.
///
/// @param solver a Solver
/// @param velocity a Velocity
/// @param x start at the first sigma of the grid [B, ...]
/// @param grid the sigmas to visit
/// @param generator source of the noise of a stochastic solver; untouched by others
/// @param hook called after each step as `hook(step, x, next, state)`
/// @return state at the last sigma [B, ...], float32 or wider
/// @throws Error if @p x is empty or not floating-point, or an option of the solver is out of range
/// @par Random numbers
/// those of the solver, in the order of its steps
template <class S, class V, class Hook = NoHook>
Tensor integrate(const S& solver, V&& velocity, Tensor x, const TimeGrid& grid,
                 Generator& generator, Hook&& hook = {}) {
  static_assert(explain_solver<S>());
  expects_samples(x, "x");
  x = wide(x);
  if constexpr (Solver<S>) {  // what is none has been refused in a sentence
    auto state = solver.init(x);
    for (std::size_t i = 0; i < grid.steps(); ++i) {
      const Step step = grid.step(i);
      Tensor next = solver.step(velocity, x, step, state, generator);
      hook(step, x, next, state);
      x = std::move(next);
    }
  }
  return x;
}

}  // namespace contraflow
