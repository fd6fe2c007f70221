#pragma once

/// @file
/// The concepts Solver, StochasticSolver and Sampler, and the transition of a step.

#include <cmath>
#include <concepts>
#include <numbers>
#include <utility>

#include <contraflow/core/meta.hpp>
#include <contraflow/core/random.hpp>
#include <contraflow/solver/gaussian_step.hpp>
#include <contraflow/time/grid.hpp>

namespace contraflow {

/// What a solver sees of a model: `velocity(x, sigma)` gives dx/dsigma at x [B, ...], for one sigma
/// shared by the batch.
template <class V>
concept Velocity = requires(V& velocity, const Tensor& x, double sigma) {
  { velocity(x, sigma) } -> std::convertible_to<Tensor>;
};

/// The velocity with which concepts are tested.
struct ProbeVelocity {
  /// x itself.
  Tensor operator()(const Tensor& x, double) const { return x; }
};

/// The Gaussian transition of one stochastic step.
///
/// `x' ~ N(on_x x + on_v v, std^2)`: every published one-evaluation step has a mean that is affine
/// in the state and its velocity. As numbers they are shared by a batch; several steps in one
/// batch are rows of numbers.
struct Transition {
  double on_x;  ///< factor of x in the mean
  double on_v;  ///< factor of the velocity in the mean
  double std;   ///< standard deviation; 0 for a deterministic step
  /// The log-density is `offset + scale * mean((x' - mean)^2)`, a mean over all but the batch.
  double log_density_scale;
  double log_density_offset;  ///< see log_density_scale

  /// The transition with the Gaussian's own log-density, a mean over dimensions.
  static Transition gaussian(double on_x, double on_v, double std) {
    if (std <= 0) return {on_x, on_v, 0, 0, 0};
    const double offset = -std::log(std) - 0.5 * std::log(2 * std::numbers::pi);
    return {on_x, on_v, std, -0.5 / (std * std), offset};
  }

  /// Whether the step draws at all.
  bool is_stochastic() const { return std > 0; }

  /// Mean of the next state.
  /// @par Shape
  /// @p x and @p v [B, ...]; result alike, float32 or wider
  Tensor mean(const Tensor& x, const Tensor& v) const {
    return at::add(wide(x) * on_x, wide(v), on_v);
  }

  /// Log-density of @p next, a mean over all but the batch: [B].
  Tensor log_density(const Tensor& next, const Tensor& mean) const {
    return mean_per_sample((wide(next) - mean).square()) * log_density_scale + log_density_offset;
  }
};

/// `typename S::State` and `s.init(x)`: what a solver carries from step to step is a type of its
/// own, so that a const solver is shared between threads.
template <class S>
concept HasState = requires(const S& solver, const Tensor& x) {
  typename S::State;
  { solver.init(x) } -> std::same_as<typename S::State>;
};

/// `s.step(velocity, x, step, state, generator)`: the state at `step.to` from the one at
/// `step.from`.
template <class S>
concept HasStep = HasState<S> &&
    requires(const S& solver, ProbeVelocity& velocity, const Tensor& x, const Step& step,
             typename S::State& state, Generator& generator) {
  { solver.step(velocity, x, step, state, generator) } -> std::convertible_to<Tensor>;
};

/// `s.transition(step)`: the Gaussian transition of a step.
template <class S>
concept HasTransition = requires(const S& solver, const Step& step) {
  { solver.transition(step) } -> std::same_as<Transition>;
};

/// `state.mean`: the transition's mean of the step just made.
template <class S>
concept HasTransitionMean = HasState<S> && requires(typename S::State& state) {
  { state.mean } -> std::convertible_to<Tensor>;
};

/// `s.at_epoch(epoch)`: the solver to use in an epoch, for solvers that change with training.
template <class S>
concept HasEpochs = requires(const S& solver, std::int64_t epoch) {
  { solver.at_epoch(epoch) } -> std::same_as<S>;
};

/// Makes one step of the ODE or SDE of a velocity.
///
/// Valid expressions: those of HasState and HasStep. Laws: with zero velocity a deterministic
/// step is the identity; the same generator state gives the same bits; samples of a batch do not
/// influence each other (except through the step control of an adaptive solver).
template <class S>
concept Solver = HasState<S> && HasStep<S>;

/// A solver each of whose steps draws from a Gaussian that can be scored.
///
/// Valid expressions: those of Solver, HasTransition and HasTransitionMean. Law: `step` draws from
/// `transition(step)` at the velocity of x, and leaves its mean in the state.
template <class S>
concept StochasticSolver = Solver<S> && HasTransition<S> && HasTransitionMean<S>;

/// A black box that turns noise into clean samples by itself.
///
/// Valid expression: `s.sample(velocity, noise, generator)` gives x0 of the shape of the noise.
template <class S>
concept Sampler = requires(const S& sampler, ProbeVelocity& velocity, const Tensor& noise,
                           Generator& generator) {
  { sampler.sample(velocity, noise, generator) } -> std::convertible_to<Tensor>;
};

/// Says in a sentence why @p S is not a Solver.
template <class S>
consteval bool explain_solver() {
  static_assert(Sampler<S> || HasState<S>,
                "contraflow: a Solver needs its state: declare `struct State` and "
                "`State init(const Tensor& x) const`, even if the state is empty");
  static_assert(Sampler<S> || !HasState<S> || HasStep<S>,
                "contraflow: a Solver needs `Tensor step(velocity, x, step, state, generator) "
                "const` that accepts any velocity and returns the next state of x");
  return true;
}

/// Says in a sentence why @p S is not a StochasticSolver.
template <class S>
consteval bool explain_stochastic_solver() {
  static_assert(StochasticSolver<S>,
                "contraflow: this objective trains on transitions with log-densities, and this "
                "solver makes none: use a StochasticSolver such as FlowSde, DanceSde, Cps, Ddim "
                "or Window instead of an ODE solver such as DpmSolver or Euler");
  return true;
}

/// One step of a solver that is defined by its transition alone: all that such a solver's `step`
/// has to call.
/// @param solver has `transition(step)`
/// @param velocity evaluated once, at `step.from`
/// @param x state at `step.from`, [B, ...]
/// @param step which one
/// @param state is given the mean of the transition
/// @param generator one draw is made unless the transition is deterministic
/// @return state at `step.to`, as x, float32 or wider
template <class S, class V>
Tensor step_by_transition(const S& solver, V& velocity, const Tensor& x, const Step& step,
                          typename S::State& state, Generator& generator) {
  const Transition transition = solver.transition(step);
  const Tensor v = velocity(x, step.from);
  if (!transition.is_stochastic()) return state.mean = transition.mean(x, v);
  GaussianStep made =
      gaussian_step(wide(x), wide(v), transition.on_x, transition.on_v, transition.std, generator);
  state.mean = std::move(made.mean);
  return std::move(made.next);
}

}  // namespace contraflow
