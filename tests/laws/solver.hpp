#pragma once

#include <cmath>
#include <functional>
#include <numbers>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/solver/integrate.hpp>

#include "laws/compare.hpp"

/// Laws of Solver and StochasticSolver, for any model of them.
namespace laws {

/// An initial value problem in sigma whose solution is known.
struct KnownFlow {
  std::function<Tensor(const Tensor& x, double sigma)> velocity;
  /// The state at `to` of the solution through x at `from`.
  std::function<Tensor(const Tensor& x, double from, double to)> solution;
};

/// The flow to a Gaussian of mean @p mean and standard deviation @p std: linear in x.
inline KnownFlow gaussian_flow(double mean = 0.8, double std = 0.6) {
  const auto variance = [std](double t) { return (1 - t) * (1 - t) * std * std + t * t; };
  return {[=](const Tensor& x, double t) {
            const double slope = (t - (1 - t) * std * std) / variance(t);
            return slope * (x - (1 - t) * mean) - mean;
          },
          [=](const Tensor& x, double from, double to) {
            const double ratio = std::sqrt(variance(to) / variance(from));
            return (1 - to) * mean + ratio * (x - (1 - from) * mean);
          }};
}

/// `dx/dt = x^2 (1 + 2 t)` for positive x: not linear, and t appears by itself.
inline KnownFlow riccati_flow() {
  return {[](const Tensor& x, double t) { return x.square() * (1 + 2 * t); },
          [](const Tensor& x, double from, double to) {
            return 1 / (1 / x - (to + to * to - from - from * from));
          }};
}

/// States at which the laws are tried: positive, of rank 3.
inline Tensor states() { return doubles({6, 2, 3}).abs() * 0.3 + 0.2; }

inline contraflow::TimeGrid even_grid(double from, double to, int steps) {
  std::vector<double> sigmas;
  for (int i = 0; i <= steps; ++i) sigmas.push_back(from + (to - from) * i / steps);
  sigmas.back() = to;
  return contraflow::TimeGrid(std::move(sigmas));
}

template <class S>
double error_on(const S& solver, const KnownFlow& flow, const contraflow::TimeGrid& grid) {
  contraflow::Generator generator = contraflow::seeded(0);
  const double from = grid.sigmas().front(), to = grid.sigmas().back();
  const Tensor end = integrate(solver, flow.velocity, states(), grid, generator);
  return relative_distance(end, flow.solution(states(), from, to));
}

/// By how many powers of two the error falls when the steps are halved.
template <class S>
double measured_order(const S& solver, const KnownFlow& flow, double from, double to, int steps) {
  const double coarse = error_on(solver, flow, even_grid(from, to, steps));
  const double fine = error_on(solver, flow, even_grid(from, to, 2 * steps));
  INFO("errors " << coarse << " and " << fine);
  CHECK(fine < 0.02);
  CHECK(fine > 1e-14);
  return std::log2(coarse / fine);
}

/// A deterministic solver: with zero velocity it is the identity.
template <class S>
void zero_velocity_is_the_identity(const S& solver) {
  contraflow::Generator generator = contraflow::seeded(0);
  const auto nothing = [](const Tensor& x, double) { return at::zeros_like(x); };
  for (const auto& grid : {contraflow::uniform_grid(7), contraflow::sd3_grid(9),
                           contraflow::uniform_grid(1), even_grid(0.8, 0.3, 4)}) {
    CHECK(relative_distance(integrate(solver, nothing, states(), grid, generator), states()) <
          1e-13);
  }
}

/// A deterministic solver draws nothing.
template <class S>
void generator_is_untouched(const S& solver) {
  contraflow::Generator used = contraflow::seeded(3), fresh = contraflow::seeded(3);
  integrate(solver, gaussian_flow().velocity, states(), contraflow::uniform_grid(5), used);
  CHECK(used.draws() == fresh.draws());
}

/// The same state of the generator gives the same bits.
template <class S>
void same_generator_gives_same_bits(const S& solver) {
  const auto run = [&](std::uint64_t seed) {
    contraflow::Generator generator = contraflow::seeded(seed);
    return integrate(solver, gaussian_flow().velocity, states(), contraflow::uniform_grid(6),
                     generator);
  };
  CHECK(same_bits(run(1), run(1)));
}

/// A deterministic solver: neither the order of a batch nor its size matters to a sample.
template <class S>
void samples_are_independent(const S& solver) {
  const auto run = [&](const Tensor& x) {
    contraflow::Generator generator = contraflow::seeded(0);
    return integrate(solver, riccati_flow().velocity, x, even_grid(0.9, 0.1, 8), generator);
  };
  const Tensor x = states(), whole = run(x), order = shuffled(x.size(0));
  CHECK(relative_distance(run(x.index_select(0, order)), whole.index_select(0, order)) < 1e-13);
  CHECK(relative_distance(at::cat({run(x.narrow(0, 0, 2)), run(x.narrow(0, 2, 4))}), whole) <
        1e-13);
}

/// Whatever the type of the state and of the velocity, arithmetic is float32 or wider.
template <class S>
void arithmetic_is_wide(const S& solver) {
  contraflow::Generator generator = contraflow::seeded(0);
  const auto half = [](const Tensor& x, double) { return (0.5 * x).to(at::kBFloat16); };
  const auto grid = contraflow::uniform_grid(4);
  CHECK(integrate(solver, half, floats({3, 2}).to(at::kHalf), grid, generator).scalar_type() ==
        at::kFloat);
  CHECK(integrate(solver, half, doubles({3, 2}), grid, generator).scalar_type() == at::kDouble);
}

/// Everything that a deterministic solver owes.
template <class S>
void deterministic_solver(const S& solver) {
  zero_velocity_is_the_identity(solver);
  generator_is_untouched(solver);
  same_generator_gives_same_bits(solver);
  arithmetic_is_wide(solver);
}

/// A step draws from its transition, and its log-density is the Gaussian's (a mean over dimensions)
/// where @p is_gaussian.
template <class S>
void steps_draw_from_their_transitions(const S& solver, const contraflow::TimeGrid& grid,
                                       bool is_gaussian = true) {
  auto flow = gaussian_flow().velocity;
  Tensor x = states();
  auto state = solver.init(x);
  for (std::size_t i = 0; i < grid.steps(); ++i) {
    const contraflow::Step step = grid.step(i);
    INFO("step " << i << " from " << step.from << " to " << step.to);
    contraflow::Generator own = contraflow::seeded(i), same = contraflow::seeded(i);
    const contraflow::Transition transition = solver.transition(step);
    const Tensor next = solver.step(flow, x, step, state, own);
    const Tensor mean = transition.mean(x, flow(x, step.from));
    CHECK(relative_distance(state.mean, mean) < 1e-13);
    if (transition.is_stochastic()) {
      const Tensor noise = contraflow::normal_like(x, same);
      CHECK(relative_distance(next, mean + transition.std * noise) < 1e-13);
      const Tensor density =
          -0.5 * noise.square() - std::log(transition.std) - 0.5 * std::log(2 * std::numbers::pi);
      if (is_gaussian) {
        CHECK(relative_distance(transition.log_density(next, mean), density.flatten(1).mean(1)) <
              1e-12);
      }
    } else {
      CHECK(same_bits(next, state.mean));
    }
    CHECK(own.draws() == same.draws());
    x = next;
  }
}

/// Everything that a stochastic solver owes.
template <class S>
void stochastic_solver(const S& solver, bool is_gaussian = true) {
  static_assert(contraflow::StochasticSolver<S>);
  steps_draw_from_their_transitions(solver, contraflow::uniform_grid(6), is_gaussian);
  steps_draw_from_their_transitions(solver, contraflow::sd3_grid(5), is_gaussian);
  steps_draw_from_their_transitions(solver, even_grid(0.9, 0.2, 3), is_gaussian);
  same_generator_gives_same_bits(solver);
  arithmetic_is_wide(solver);
}

}  // namespace laws
