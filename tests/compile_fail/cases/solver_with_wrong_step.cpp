// expect: a Solver needs `Tensor step(velocity, x, step, state, generator) const`
#include <contraflow/solver/integrate.hpp>

namespace cf = contraflow;

struct Solver {
  struct State {};
  State init(const cf::Tensor&) const { return {}; }
  template <class V>
  cf::Tensor step(V& velocity, const cf::Tensor& x, const cf::Step& step, State&, cf::Generator&)
#ifdef POSITIVE_CONTROL
      const
#endif
  {
    return x + velocity(x, step.from) * (step.to - step.from);
  }
};

cf::Tensor run(const cf::Tensor& x, cf::Generator& generator) {
  return cf::integrate(Solver{}, cf::ProbeVelocity{}, x, cf::uniform_grid(2), generator);
}
