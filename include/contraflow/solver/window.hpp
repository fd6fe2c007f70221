#pragma once

/// @file
/// Noise in some steps, an ODE in the others.

#include <contraflow/solver/runge_kutta.hpp>
#include <contraflow/solver/sde.hpp>

namespace contraflow {

/// Where a window of stochastic steps lies.
struct WindowPlace {
  std::size_t first = 0;         ///< index of its first step
  std::size_t length = 2;        ///< number of its steps, at least 1
  std::int64_t slide_every = 0;  ///< epochs after which it moves on; 0: never
  std::size_t slide_by = 1;      ///< steps it moves each time
  std::size_t slide_until = 0;   ///< `first` begins again at 0 behind this index
};

/// Noise in a window of steps, an ODE solver elsewhere: fewer steps to train on.
///
/// With a fixed window of one or two steps this is Flow-GRPO-Fast; with a window that slides from
/// high noise to low as training goes on it is MixGRPO (Li and others, 2025, arXiv 2507.21802). A
/// multistep ODE solver starts afresh behind the window.
template <StochasticSolver Sde = FlowSde, Solver Ode = Euler>
struct Window {
  Sde sde = {};            ///< inside of the window
  Ode ode = {};            ///< outside of it
  WindowPlace place = {};  ///< where it lies

  /// The states of both solvers, and the mean of the step just made.
  struct State {
    typename Sde::State sde;  ///< of the stochastic solver
    typename Ode::State ode;  ///< of the ODE solver
    Tensor mean;              ///< of the step just made [B, ...]
  };

  /// The state before the first step.
  /// @throws Error if the window has no steps
  State init(const Tensor& x) const {
    expects(place.length >= 1, "length", "at least 1", place.length);
    return {sde.init(x), ode.init(x), {}};
  }

  /// The window as it lies in an epoch, counted from 0.
  Window at_epoch(std::int64_t epoch) const {
    if (place.slide_every <= 0) return *this;
    Window moved = *this;
    const auto moves = static_cast<std::size_t>(epoch / place.slide_every) * place.slide_by;
    moved.place.first = (place.first + moves) % (place.slide_until + 1);
    return moved;
  }

  /// Deterministic outside of the window: std 0.
  Transition transition(const Step& step) const {
    if (contains(step)) return sde.transition(step);
    return {1, step.to - step.from, 0, 0, 0};
  }

  /// One step; draws a normal number an element unless the step is deterministic.
  template <class V>
  Tensor step(V& velocity, const Tensor& x, const Step& step, State& state, Generator& g) const {
    if (!contains(step)) {
      state.mean = ode.step(velocity, x, step, state.ode, g);
      return state.mean;
    }
    Tensor next = sde.step(velocity, x, step, state.sde, g);
    state.mean = state.sde.mean;
    state.ode = ode.init(next);
    return next;
  }

 private:
  bool contains(const Step& step) const {
    return step.index >= place.first && step.index < place.first + place.length;
  }
};

}  // namespace contraflow
