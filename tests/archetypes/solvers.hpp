#pragma once

#include <contraflow/solver/concept.hpp>

/// The least that models each concept: algorithms may ask for no more.
namespace archetypes {

using contraflow::Generator;
using contraflow::Step;
using contraflow::Tensor;

/// A Solver: Euler's method with an empty state.
struct PlainSolver {
  struct State {};
  State init(const Tensor&) const { return {}; }
  template <class V>
  Tensor step(V& velocity, const Tensor& x, const Step& step, State&, Generator&) const {
    return x + (step.to - step.from) * velocity(x, step.from);
  }
};

/// A StochasticSolver: Euler's method and a little noise.
struct NoisySolver {
  struct State {
    Tensor mean;
  };
  State init(const Tensor&) const { return {}; }
  contraflow::Transition transition(const Step& step) const {
    return contraflow::Transition::gaussian(1, step.to - step.from, 0.1);
  }
  template <class V>
  Tensor step(V& velocity, const Tensor& x, const Step& step, State& state, Generator& g) const {
    state.mean = x + (step.to - step.from) * velocity(x, step.from);
    return state.mean + 0.1 * contraflow::normal_like(x, g);
  }
};

/// A Sampler: one step all the way.
struct OneShot {
  template <class V>
  Tensor sample(V& velocity, const Tensor& noise, Generator&) const {
    return noise - velocity(noise, 1.0);
  }
};

static_assert(contraflow::Solver<PlainSolver> && !contraflow::StochasticSolver<PlainSolver>);
static_assert(contraflow::StochasticSolver<NoisySolver>);
static_assert(contraflow::Sampler<OneShot> && !contraflow::Solver<OneShot>);

}  // namespace archetypes
