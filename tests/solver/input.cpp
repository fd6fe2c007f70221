// Bad input of solvers.

#include <limits>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/window.hpp>

#include "laws/errors.hpp"
#include "laws/solver.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;

namespace {

template <class S>
auto run(const S& solver, const Tensor& x = laws::states()) {
  return [=] {
    cf::Generator generator = cf::seeded(0);
    return integrate(solver, laws::gaussian_flow().velocity, x, cf::uniform_grid(3), generator);
  };
}

}  // namespace

TEST_CASE("a state that is no batch of samples is refused") {
  check_error(run(cf::Euler{}, Tensor()), "x", "nothing");
  check_error(run(cf::Euler{}, at::zeros({0, 2})), "x", "[0, 2]");
  check_error(run(cf::Euler{}, at::zeros({4, 0})), "x", "[4, 0]");
  check_error(run(cf::Euler{}, at::zeros({4})), "x", "[4]");
  check_error(run(cf::Euler{}, at::zeros({4, 2}, at::kLong)), "x", "floating-point");
}

TEST_CASE("noise levels and etas out of range are refused") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  check_error(run(cf::FlowSde{.noise_level = -0.1}), "noise_level", "-0.1");
  check_error(run(cf::FlowSde{.noise_level = nan}), "noise_level", "nan");
  check_error(run(cf::DanceSde{.noise_level = -1}), "noise_level", "-1");
  check_error(run(cf::Cps{.noise_level = 1.5}), "noise_level", "[0, 1]");
  check_error(run(cf::Cps{.noise_level = -0.5}), "noise_level", "[0, 1]");
  check_error(run(cf::Ddim{.eta = 1.01}), "eta", "[0, 1]");
  check_error(run(cf::Ddim{.eta = -1}), "eta", "[0, 1]");
}

TEST_CASE("a window of no steps is refused") {
  using Window = cf::Window<>;
  check_error(run(Window{.place = {.length = 0}}), "length", "at least 1");
  check_error(run(Window{.sde = {.noise_level = -1}}), "noise_level", "at least 0");
}

TEST_CASE("an adaptive solver says what it cannot do") {
  check_error(run(cf::DormandPrince{.relative_tolerance = 0}), "relative_tolerance", "above 0");
  check_error(run(cf::DormandPrince{.absolute_tolerance = -1}), "absolute_tolerance", "above 0");
  check_error(run(cf::DormandPrince{
                  .relative_tolerance = 1e-12, .absolute_tolerance = 1e-12, .max_evaluations = 50}),
              "max_evaluations", "50");
  // A velocity that is not a number ends in an error, too, and not in an endless loop.
  cf::Generator generator = cf::seeded(0);
  const auto lost = [](const Tensor& x, double) { return at::full_like(x, std::nan("")); };
  check_error(
      [&] {
        integrate(cf::DormandPrince{.max_evaluations = 200}, lost, laws::states(),
                  cf::uniform_grid(2), generator);
      },
      "max_evaluations", "200");
}
