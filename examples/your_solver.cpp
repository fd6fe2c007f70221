// A solver of your own, and the test that it has the order it declares.
#include <cmath>
#include <iostream>
#include <utility>

#include <contraflow/solver/integrate.hpp>

namespace cf = contraflow;
using cf::Tensor;

//! [solver]
/// Adams and Bashforth's method of order 2: one velocity a step, the one before remembered.
struct AdamsBashforth2 {
  static constexpr int order = 2;
  struct State {
    Tensor slope;       ///< of the step before; undefined at the first
    double length = 0;  ///< of the step before
  };
  State init(const Tensor&) const { return {}; }

  template <class V>
  Tensor step(V& velocity, const Tensor& x, const cf::Step& step, State& state,
              cf::Generator&) const {
    const double h = step.to - step.from;
    const State before = std::exchange(state, {cf::wide(velocity(x, step.from)), h});
    if (!before.slope.defined()) return x + h * state.slope;
    const double ratio = h / (2 * before.length);
    return x + h * ((1 + ratio) * state.slope - ratio * before.slope);
  }
};
static_assert(cf::Solver<AdamsBashforth2>);
//! [solver]

//! [solver test]
/// Error at sigma 0 of dx/dsigma = x from sigma 1, whose solution is exp(sigma - 1).
template <class S>
double error_after(const S& solver, int steps) {
  cf::Generator generator = cf::seeded(0);
  const auto velocity = [](const Tensor& x, double) { return x; };
  const Tensor start = at::ones({1, 1}, at::kDouble);
  const Tensor end = cf::integrate(solver, velocity, start, cf::uniform_grid(steps), generator);
  return std::abs(end.item<double>() - std::exp(-1.0));
}

/// Halving the step divides the error by 2^order.
bool has_declared_order() {
  const double gain = error_after(AdamsBashforth2{}, 64) / error_after(AdamsBashforth2{}, 128);
  return std::log2(gain) > AdamsBashforth2::order - 0.1;
}
//! [solver test]

int main() {
  std::cout << "error after 64 steps: " << error_after(AdamsBashforth2{}, 64)
            << ", after 128: " << error_after(AdamsBashforth2{}, 128) << '\n';
  return has_declared_order() ? 0 : 1;
}
