// Gaussian mixtures and what is known of them in closed form.

#include <cmath>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/path/rectified_flow.hpp>
#include <contraflow/toy/mixture.hpp>
#include <contraflow/toy/rewards.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

cf::toy::Mixture lopsided() {
  return cf::toy::Mixture(at::tensor({-1.0, 0.5, 1.5, -0.5, 0.0, 2.0}, at::kDouble).view({3, 2}),
                          0.4, at::tensor({0.5, 0.3, 0.2}, at::kDouble));
}

}  // namespace

TEST_CASE("samples have the moments of the mixture") {
  const auto mixture = lopsided();
  cf::Generator generator = cf::seeded(0);
  const Tensor x = mixture.sample(40000, generator);
  const Tensor mean = at::matmul(mixture.weights(), mixture.means());
  CHECK(relative_distance(x.mean(0), mean) < 0.05);
  const Tensor second = at::matmul(mixture.weights(), mixture.means().square()) + 0.4 * 0.4;
  CHECK(relative_distance(x.square().mean(0), second) < 0.03);
  cf::Generator again = cf::seeded(0);
  CHECK(laws::same_bits(mixture(40000, again), x));
}

// E[eps - x0 | x_t] is the best prediction of the velocity: what it leaves is uncorrelated with any
// function of x_t.
TEST_CASE("the velocity is the conditional expectation of eps - x0") {
  const auto mixture = lopsided();
  cf::Generator generator = cf::seeded(1);
  for (const double time : {0.1, 0.5, 0.9}) {
    const std::int64_t n = 100000;
    const Tensor x0 = mixture.sample(n, generator), eps = cf::normal_like(x0, generator);
    const Tensor t = at::full({n}, time, at::kDouble), x_t = cf::interpolate(x0, eps, t);
    const Tensor left = cf::velocity_target(x0, eps) - mixture.velocity(x_t, t);
    for (const Tensor& probe :
         {at::ones_like(x_t), x_t, x_t.square(), x_t.sin(), (x_t > 0.3).to(at::kDouble)}) {
      const Tensor product = (left * probe).flatten(1);
      const double standard_error =
          product.std(0).max().item<double>() / std::sqrt(static_cast<double>(n));
      CHECK(product.mean(0).abs().max().item<double>() < 4.5 * standard_error);
    }
  }
}

// For a Gaussian path the velocity follows from the score of the density: v = -(x + t score) / (1 -
// t).
TEST_CASE("velocity, density and posterior agree") {
  const auto mixture = lopsided();
  const Tensor x = laws::doubles({7, 2}).requires_grad_();
  const Tensor t = at::linspace(0.2, 0.8, 7, at::kDouble);
  mixture.density(x, t).log().sum().backward();
  const Tensor time = t.unsqueeze(1);
  const Tensor v = -(x + time * x.grad()) / (1 - time);
  CHECK(relative_distance(mixture.velocity(x, t), v) < 1e-12);
  const Tensor posterior = mixture.posterior(x, t);
  CHECK(posterior.sizes() == at::IntArrayRef({7, 3}));
  CHECK(relative_distance(posterior.sum(1), at::ones({7}, at::kDouble)) < 1e-14);
  CHECK(relative_distance(mixture.posterior(x, at::ones({7}, at::kDouble))[0], mixture.weights()) <
        1e-14);
}

TEST_CASE("the ring has its modes where the task says") {
  const auto ring = cf::toy::ring();
  CHECK(ring.means().sizes() == at::IntArrayRef({8, 2}));
  CHECK(ring.dimension() == 2);
  CHECK(ring.std() == 0.15);
  CHECK(relative_distance(ring.means().norm(2, 1), at::full({8}, 2)) < 1e-6);
  CHECK(relative_distance(ring.means()[2], at::tensor({0.0F, 2.0F})) < 1e-6);
}

TEST_CASE("the reward of the ring is 1 within 0.4 of modes 1 and 4") {
  const cf::toy::InModes reward{{1, 4}};
  const Tensor means = cf::toy::ring().means();
  CHECK(at::equal(reward(means), at::tensor({0.F, 1.F, 0.F, 0.F, 1.F, 0.F, 0.F, 0.F})));
  const Tensor shifted = means + at::tensor({0.39F, 0.0F});
  CHECK(at::equal(reward(shifted), reward(means)));
  CHECK(reward(means + at::tensor({0.0F, 0.41F})).sum().item<float>() == 0);
  CHECK(at::equal(reward(means.to(at::kHalf)), reward(means)));
  cf::Generator generator = cf::seeded(0);
  const double share = reward(cf::toy::ring().sample(20000, generator)).mean().item<double>();
  CHECK(std::abs(share - 0.25 * (1 - std::exp(-0.5 * 0.16 / 0.0225))) < 0.01);
}

TEST_CASE("mixtures that are none are refused") {
  check_error([] { cf::toy::Mixture(Tensor(), 1); }, "means", "[K, D]");
  check_error([] { cf::toy::Mixture(at::zeros({3}), 1); }, "means", "[3]");
  check_error([] { cf::toy::Mixture(at::zeros({0, 2}), 1); }, "means", "[0, 2]");
  check_error([] { cf::toy::Mixture(at::zeros({2, 2}), 0); }, "std", "above 0");
  check_error([] { cf::toy::Mixture(at::zeros({2, 2}), 1, at::ones({3})); }, "weights", "[2]");
  check_error([] { cf::toy::ring(0); }, "modes", "at least 1");
  check_error([] { cf::toy::InModes({1}, 0); }, "radius", "above 0");
  check_error([] { cf::toy::InModes({}); }, "modes", "at least one");
  check_error([] { cf::toy::InModes({8}); }, "modes", "8");
  check_error([] { cf::toy::InModes({-1}); }, "modes", "-1");
}
