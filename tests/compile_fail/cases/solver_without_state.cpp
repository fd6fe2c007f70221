// expect: a Solver needs its state
#include <contraflow/solver/integrate.hpp>

namespace cf = contraflow;

struct Solver {
#ifdef POSITIVE_CONTROL
  struct State {};
  State init(const cf::Tensor&) const { return {}; }
  template <class V>
  cf::Tensor step(V& velocity, const cf::Tensor& x, const cf::Step& step, State&,
                  cf::Generator&) const {
    return x + velocity(x, step.from) * (step.to - step.from);
  }
#else
  template <class V>
  cf::Tensor step(V& velocity, const cf::Tensor& x, const cf::Step& step, cf::Generator&) const {
    return x + velocity(x, step.from) * (step.to - step.from);
  }
#endif
};

cf::Tensor run(const cf::Tensor& x, cf::Generator& generator) {
  return cf::integrate(Solver{}, cf::ProbeVelocity{}, x, cf::uniform_grid(2), generator);
}
