// The laws of solvers, for every solver of the library.

#include <string>
#include <type_traits>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/solver/black_box.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/window.hpp>

#include "archetypes/solvers.hpp"
#include "laws/solver.hpp"

namespace cf = contraflow;
using cf::Tensor;

namespace {

using Window = cf::Window<cf::FlowSde, cf::Euler>;

// Calls body(name, solver) for every solver that is deterministic as it stands.
template <class Body>
void each_deterministic(Body&& body) {
  body("Euler", cf::Euler{});
  body("Midpoint", cf::Midpoint{});
  body("Heun", cf::Heun{});
  body("Kutta3", cf::RungeKutta<cf::tableau::Kutta3>{});
  body("Rk4", cf::Rk4{});
  body("Dormand-Prince with fixed steps", cf::RungeKutta<cf::tableau::DormandPrince>{});
  body("DormandPrince", cf::DormandPrince{});
  body("DpmSolver<1>", cf::DpmSolver<1>{});
  body("DpmSolver<2>", cf::DpmSolver<2>{});
  body("DpmSolver<3>", cf::DpmSolver<3>{});
  body("FlowSde without noise", cf::FlowSde{.noise_level = 0});
  body("DanceSde without noise", cf::DanceSde{.noise_level = 0});
  body("Cps without noise", cf::Cps{.noise_level = 0});
  body("Ddim", cf::Ddim{});
  body("Window without noise", Window{.sde = {.noise_level = 0}, .place = {.first = 1}});
  body("the least solver", archetypes::PlainSolver{});
}

// Those of them with a fixed number of steps; samples of an adaptive solver share their steps.
template <class Body>
void each_with_fixed_steps(Body&& body) {
  each_deterministic([&](const char* name, const auto& solver) {
    using S = std::remove_cvref_t<decltype(solver)>;
    if constexpr (!std::is_same_v<S, cf::DormandPrince>) body(name, solver);
  });
}

template <class Body>
void each_stochastic(Body&& body) {
  body("FlowSde", cf::FlowSde{}, true);
  body("DanceSde", cf::DanceSde{}, true);
  body("Cps", cf::Cps{}, false);
  body("Cps, all noise new", cf::Cps{.noise_level = 1}, false);
  body("Ddim with noise", cf::Ddim{.eta = 0.7}, true);
  body("DDPM", cf::Ddim{.eta = 1}, true);
  body("Window", Window{.place = {.first = 1, .length = 2}}, true);
  body("the least stochastic solver", archetypes::NoisySolver{}, true);
}

}  // namespace

TEST_CASE("deterministic solvers keep the laws of solvers") {
  each_deterministic([](const char* name, const auto& solver) {
    INFO(name);
    laws::deterministic_solver(solver);
  });
}

TEST_CASE("samples of a batch do not influence each other") {
  each_with_fixed_steps([](const char* name, const auto& solver) {
    INFO(name);
    laws::samples_are_independent(solver);
  });
}

TEST_CASE("stochastic solvers keep the laws of stochastic solvers") {
  each_stochastic([](const char* name, const auto& solver, bool is_gaussian) {
    INFO(name);
    laws::stochastic_solver(solver, is_gaussian);
  });
}

TEST_CASE("another seed gives other samples of a stochastic solver") {
  each_stochastic([](const char* name, const auto& solver, bool) {
    INFO(name);
    cf::Generator one = cf::seeded(1), two = cf::seeded(2);
    const auto grid = cf::uniform_grid(5);
    const auto flow = laws::gaussian_flow().velocity;
    CHECK_FALSE(at::equal(integrate(solver, flow, laws::states(), grid, one),
                          integrate(solver, flow, laws::states(), grid, two)));
  });
}

TEST_CASE("the measured order is at least the declared one") {
  each_with_fixed_steps([](const char* name, const auto& solver) {
    using S = std::remove_cvref_t<decltype(solver)>;
    if constexpr (requires { S::order; }) {
      INFO(name);
      const int steps = S::order >= 5 ? 10 : 80;
      CHECK(laws::measured_order(solver, laws::gaussian_flow(), 0.9, 0.2, steps) > S::order - 0.4);
      CHECK(laws::measured_order(solver, laws::riccati_flow(), 0.9, 0.2, steps) > S::order - 0.4);
    }
  });
}

TEST_CASE("solvers without noise are of order 1 at least") {
  each_with_fixed_steps([](const char* name, const auto& solver) {
    INFO(name);
    CHECK(laws::measured_order(solver, laws::gaussian_flow(), 0.9, 0.2, 40) > 0.8);
  });
}

TEST_CASE("Runge-Kutta methods keep their order from noise to data") {
  const auto order = [](const auto& solver, int steps) {
    return laws::measured_order(solver, laws::gaussian_flow(), 1, 0, steps);
  };
  CHECK(order(cf::Euler{}, 100) > 0.8);
  CHECK(order(cf::Midpoint{}, 100) > 1.8);
  CHECK(order(cf::Heun{}, 100) > 1.8);
  CHECK(order(cf::Rk4{}, 40) > 3.8);
}

// The last step to data is of order 1, so its own error is of order 2; near data the steps are long
// in log-SNR, which costs the second order a logarithm.
TEST_CASE("DpmSolver keeps its order up to 2 from noise to data") {
  const auto order = [](const auto& solver) {
    return laws::measured_order(solver, laws::gaussian_flow(), 1, 0, 160);
  };
  CHECK(order(cf::DpmSolver<1>{}) > 0.8);
  CHECK(order(cf::DpmSolver<2>{}) > 1.7);
  CHECK(order(cf::DpmSolver<3>{}) > 1.9);
}

TEST_CASE("a solver of higher order is closer at the same number of velocities") {
  const auto grid = laws::even_grid(0.9, 0.2, 48);
  const auto flow = laws::riccati_flow();
  CHECK(laws::error_on(cf::DpmSolver<2>{}, flow, grid) <
        laws::error_on(cf::DpmSolver<1>{}, flow, grid) / 5);
  CHECK(laws::error_on(cf::DpmSolver<3>{}, flow, grid) <
        laws::error_on(cf::DpmSolver<2>{}, flow, grid) / 3);
  const auto quarter = laws::even_grid(0.9, 0.2, 12);
  CHECK(laws::error_on(cf::Rk4{}, flow, quarter) < laws::error_on(cf::Euler{}, flow, grid) / 100);
}

namespace {
template <class Tableau>
void is_consistent() {
  constexpr std::size_t stages = Tableau::b.size();
  double sum_b = 0;
  for (std::size_t i = 0; i < stages; ++i) {
    double row = 0;
    for (std::size_t j = 0; j < stages; ++j) {
      row += Tableau::a[i][j];
      if (j >= i) CHECK(Tableau::a[i][j] == 0);
    }
    CHECK(std::abs(row - Tableau::c[i]) < 1e-15);
    sum_b += Tableau::b[i];
  }
  CHECK(std::abs(sum_b - 1) < 1e-15);
}
}  // namespace

TEST_CASE("tableaux are explicit and consistent") {
  is_consistent<cf::tableau::Euler>();
  is_consistent<cf::tableau::Midpoint>();
  is_consistent<cf::tableau::Heun>();
  is_consistent<cf::tableau::Kutta3>();
  is_consistent<cf::tableau::Rk4>();
  is_consistent<cf::tableau::DormandPrince>();
}

// With weights of order 4 the embedded method integrates t^3 exactly, but not t^4.
TEST_CASE("the error weights of Dormand-Prince are the difference of orders 5 and 4") {
  using T = cf::tableau::DormandPrince;
  for (const int power : {0, 1, 2, 3}) {
    double moment = 0;
    for (std::size_t i = 0; i < T::b.size(); ++i) moment += T::error[i] * std::pow(T::c[i], power);
    CHECK(std::abs(moment) < 1e-15);
  }
  double fourth = 0;
  for (std::size_t i = 0; i < T::b.size(); ++i) fourth += T::error[i] * std::pow(T::c[i], 4);
  CHECK(std::abs(fourth) > 1e-4);
}

TEST_CASE("the adaptive solver is as close as it is asked to be") {
  const auto grid = cf::uniform_grid(3);
  double last = 1;
  for (const double tolerance : {1e-3, 1e-5, 1e-7, 1e-9}) {
    const cf::DormandPrince solver{.relative_tolerance = tolerance,
                                   .absolute_tolerance = tolerance};
    const double error = laws::error_on(solver, laws::gaussian_flow(), grid);
    INFO("tolerance " << tolerance);
    CHECK(error < 20 * tolerance);
    CHECK(error < last);
    last = error;
  }
}

TEST_CASE("the adaptive solver spends velocities where the flow is hard") {
  int evaluations = 0;
  const auto count = [&](double std) {
    evaluations = 0;
    const auto flow = laws::gaussian_flow(0.8, std).velocity;
    cf::Generator generator = cf::seeded(0);
    integrate(
        cf::DormandPrince{},
        [&](const Tensor& x, double t) {
          ++evaluations;
          return flow(x, t);
        },
        laws::states(), cf::uniform_grid(1), generator);
    return evaluations;
  };
  const int easy = count(0.9);
  CHECK(easy <= 80);
  CHECK(count(0.01) > 2 * easy);
}

TEST_CASE("a window is its SDE inside and its ODE outside") {
  const cf::Window<cf::FlowSde, cf::DpmSolver<2>> window{.place = {.first = 2, .length = 2}};
  const auto grid = cf::uniform_grid(7);
  for (std::size_t i = 0; i < grid.steps(); ++i) {
    const bool inside = i == 2 || i == 3;
    const cf::Transition own = window.transition(grid.step(i));
    CHECK(own.is_stochastic() == inside);
    if (inside) CHECK(own.std == cf::FlowSde{}.transition(grid.step(i)).std);
  }
  // A multistep solver starts afresh behind the window: its next step is one of order 1.
  auto flow = laws::gaussian_flow().velocity;
  cf::Generator generator = cf::seeded(4);
  std::vector<Tensor> states{laws::states()};
  integrate(window, flow, laws::states(), grid, generator,
            [&](const cf::Step&, const Tensor&, const Tensor& next, const auto&) {
              states.push_back(next);
            });
  const auto euler = [&](std::size_t i) {
    const cf::Step step = grid.step(i);
    return Tensor(states[i] + (step.to - step.from) * flow(states[i], step.from));
  };
  CHECK(laws::relative_distance(states[5], euler(4)) < 1e-13);
  CHECK(laws::relative_distance(states[6], euler(5)) > 1e-5);
}

TEST_CASE("a sliding window moves with the epochs and begins again") {
  const Window window{
      .place = {.first = 1, .length = 2, .slide_every = 3, .slide_by = 2, .slide_until = 6}};
  const auto first = [&](std::int64_t epoch) { return window.at_epoch(epoch).place.first; };
  CHECK(first(0) == 1);
  CHECK(first(2) == 1);
  CHECK(first(3) == 3);
  CHECK(first(6) == 5);
  CHECK(first(9) == 0);
  const Window fixed{.place = {.first = 4}};
  CHECK(fixed.at_epoch(1000).place.first == 4);
}

TEST_CASE("a black box may take the velocity or the noise alone") {
  auto flow = [](const Tensor& x, double) { return 2 * x; };
  cf::Generator generator = cf::seeded(0);
  const Tensor noise = laws::floats({4, 3});
  const cf::BlackBox alone([](const Tensor& x) { return x * 3; });
  CHECK(at::equal(alone.sample(flow, noise, generator), noise * 3));
  const cf::BlackBox full(
      [](auto& velocity, const Tensor& x, cf::Generator&) { return x - velocity(x, 1.0); });
  CHECK(at::equal(full.sample(flow, noise, generator), -noise));
  const cf::BlackBox narrow([](const Tensor& x) { return x.narrow(0, 0, 2); });
  CHECK_THROWS_AS(narrow.sample(flow, noise, generator), cf::Error);
}

TEST_CASE("the hook sees every step in order with the states around it") {
  cf::Generator generator = cf::seeded(0);
  const auto grid = cf::sd3_grid(5);
  std::vector<Tensor> befores, afters;
  std::size_t expected = 0;
  const Tensor end = integrate(
      cf::Heun{}, laws::gaussian_flow().velocity, laws::states(), grid, generator,
      [&](const cf::Step& step, const Tensor& x, const Tensor& next, const cf::Heun::State&) {
        CHECK(step.index == expected++);
        CHECK(step.count == 5);
        CHECK(step.is_first() == (step.index == 0));
        CHECK(step.is_last() == (step.index == 4));
        befores.push_back(x);
        afters.push_back(next);
      });
  REQUIRE(expected == 5);
  CHECK(at::equal(befores[0], laws::states()));
  for (std::size_t i = 1; i < 5; ++i) CHECK(at::equal(befores[i], afters[i - 1]));
  CHECK(at::equal(afters.back(), end));
}
