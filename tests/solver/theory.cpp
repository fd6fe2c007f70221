// What noise must not change: the marginals of the flow.

#include <cmath>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/solver/integrate.hpp>
#include <contraflow/solver/sde.hpp>

#include "laws/solver.hpp"

namespace cf = contraflow;
using cf::Tensor;

namespace {

constexpr double mean = 0.8, spread = 0.6;
constexpr std::int64_t samples = 40000;

double marginal_mean(double t) { return (1 - t) * mean; }
double marginal_std(double t) { return std::hypot((1 - t) * spread, t); }

struct Moments {
  double mean, std, skewness, excess;
};

Moments moments(const Tensor& x) {
  const double m = x.mean().item<double>(), s = x.std(false).item<double>();
  const Tensor z = (x - m) / s;
  return {m, s, z.pow(3).mean().item<double>(), z.pow(4).mean().item<double>() - 3};
}

// The solver on the exact velocity of a Gaussian, from the exact marginal at 0.9 down to 0.1.
template <class S>
Moments at_the_end(const S& solver) {
  cf::Generator generator = cf::seeded(11);
  const Tensor z = cf::normal({samples, 1}, generator, at::kDouble);
  const Tensor x = marginal_mean(0.9) + marginal_std(0.9) * z;
  return moments(integrate(solver, laws::gaussian_flow(mean, spread).velocity, x,
                           laws::even_grid(0.9, 0.1, 150), generator));
}

void check_marginal(const Moments& got) {
  CHECK(std::abs(got.mean - marginal_mean(0.1)) < 0.012);
  CHECK(std::abs(got.std - marginal_std(0.1)) < 0.012);
  CHECK(std::abs(got.skewness) < 0.05);
  CHECK(std::abs(got.excess) < 0.1);
}

}  // namespace

TEST_CASE("the SDEs keep the marginals of the ODE on a Gaussian") {
  check_marginal(at_the_end(cf::FlowSde{.noise_level = 0}));
  check_marginal(at_the_end(cf::FlowSde{.noise_level = 0.7}));
  check_marginal(at_the_end(cf::FlowSde{.noise_level = 1.2}));
  check_marginal(at_the_end(cf::DanceSde{.noise_level = 0.3}));
  check_marginal(at_the_end(cf::DanceSde{.noise_level = 1}));
  check_marginal(at_the_end(cf::Ddim{.eta = 0.5}));
  check_marginal(at_the_end(cf::Ddim{.eta = 1}));
}

// Noise decorrelates the end from the start, which is what it is there for; the ODE does not.
TEST_CASE("noise forgets where a sample came from") {
  const auto correlation = [](const auto& solver) {
    cf::Generator generator = cf::seeded(5);
    const Tensor z = cf::normal({5000, 1}, generator, at::kDouble);
    const Tensor x = marginal_mean(0.9) + marginal_std(0.9) * z;
    const Tensor end = integrate(solver, laws::gaussian_flow(mean, spread).velocity, x,
                                 laws::even_grid(0.9, 0.1, 100), generator);
    return at::corrcoef(at::cat({x, end}, 1).t())[0][1].item<double>();
  };
  CHECK(correlation(cf::FlowSde{.noise_level = 0}) > 0.999);
  CHECK(correlation(cf::FlowSde{.noise_level = 0.7}) < 0.8);
  CHECK(correlation(cf::Ddim{.eta = 1}) < 0.8);
}

// Data of a single point: predictions of x0 and of the noise are exact, and a step that replaces a
// part of the noise leaves exactly the noise that its sigma says, in one step of any length.
TEST_CASE("coefficients-preserving steps leave the noise that sigma says") {
  const auto flow = [](const Tensor& x, double t) { return (x - mean) / t; };
  for (const double level : {0.2, 0.7, 1.0}) {
    for (const int steps : {2, 9}) {
      cf::Generator generator = cf::seeded(2);
      const Tensor x = cf::normal({samples, 1}, generator, at::kDouble);
      const Moments end = moments(integrate(cf::Cps{.noise_level = level}, flow, x,
                                            laws::even_grid(1, 0.3, steps), generator));
      CHECK(std::abs(end.mean - 0.7 * mean) < 0.005);
      CHECK(std::abs(end.std - 0.3) < 0.005);
    }
  }
}

TEST_CASE("a DDIM step leaves the noise that sigma says") {
  const auto flow = [](const Tensor& x, double t) { return (x - mean) / t; };
  for (const double eta : {0.0, 0.4, 1.0}) {
    cf::Generator generator = cf::seeded(2);
    const Tensor x = cf::normal({samples, 1}, generator, at::kDouble);
    const Moments end =
        moments(integrate(cf::Ddim{.eta = eta}, flow, x, laws::even_grid(1, 0.3, 4), generator));
    CHECK(std::abs(end.mean - 0.7 * mean) < 0.005);
    CHECK(std::abs(end.std - 0.3) < 0.005);
  }
}

// Song et al. 2021, equation 16 in the coefficients of the rectified flow: with eta = 1 the
// variance is that of the posterior q(x' | x, x0).
TEST_CASE("DDIM with eta 1 has the variance of the posterior") {
  const double sigma = 0.7, next = 0.4;
  const cf::Transition transition = cf::Ddim{.eta = 1}.transition({sigma, next, 1, 3});
  // x = a x' + noise of variance b, both with the coefficients of the path.
  const double a = (1 - sigma) / (1 - next), b = sigma * sigma - a * a * next * next;
  CHECK(std::abs(transition.std - next * std::sqrt(b) / sigma) < 1e-14);
}
