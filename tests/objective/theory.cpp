// The theory of NFT on Gaussian mixtures, where every quantity has a closed form.

#include <cmath>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/objective/algebra.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/path/rectified_flow.hpp>
#include <contraflow/toy/mixture.hpp>

#include "laws/compare.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;
using laws::relative_distance;

namespace {

// Data of the old policy: three Gaussians on a line. r is the probability of having come from the
// first two of them, so that the r-weighted data are a mixture of these and the rest is the third.
const Tensor means = at::tensor({-1.5, 0.2, 1.4}, at::kDouble).view({3, 1});
const Tensor weights = at::tensor({0.3, 0.2, 0.5}, at::kDouble);
constexpr double spread = 0.45;

cf::toy::Mixture all() { return cf::toy::Mixture(means, spread, weights); }
cf::toy::Mixture good() {
  return cf::toy::Mixture(means.slice(0, 0, 2), spread, weights.slice(0, 0, 2) / 0.5);
}
cf::toy::Mixture bad() { return cf::toy::Mixture(means.slice(0, 2), spread); }

Tensor probability_of_good(const Tensor& x_t, const Tensor& t) {
  return all().posterior(x_t, t).slice(1, 0, 2).sum(1);
}

// Bumps along the line: a class of functions rich enough for what is to be fitted.
Tensor bumps(const Tensor& x) {
  const Tensor centres = at::linspace(-4, 4, 28, at::kDouble);
  return at::exp(-0.5 * ((x - centres) / 0.35).square());
}

struct Sample {
  Tensor x0, eps, t, x_t, r;
};

Sample sample(std::int64_t n, double time) {
  cf::Generator generator = cf::seeded(21);
  Sample s;
  s.x0 = all().sample(n, generator);
  s.eps = cf::normal_like(s.x0, generator);
  s.t = at::full({n}, time, at::kDouble);
  s.x_t = cf::interpolate(s.x0, s.eps, s.t);
  s.r = probability_of_good(s.x0, at::zeros({n}, at::kDouble));
  return s;
}

template <class Term>
Tensor loss_of(const Term& term, const Sample& s, const Tensor& v_theta, const Tensor& v_old,
               const Tensor& r) {
  cf::ForwardBatch<typename Term::Velocities> batch{s.x0, s.eps, s.t, s.x_t, {}};
  batch.velocities.template get<Role::current>() = v_theta;
  batch.velocities.template get<Role::old>() = v_old;
  cf::Statistics statistics;
  return term.loss(batch, r, statistics);
}

// v_theta - v_old of the minimiser among v_old + bumps theta, as a function of x. The loss is a
// quadratic form in theta, so its gradients at 0 and at the unit vectors are all of it.
template <class Term>
auto fitted(const Term& term, double time) {
  const Sample s = sample(60000, time);
  const Tensor features = bumps(s.x_t), v_old = all().velocity(s.x_t, s.t);
  const auto gradient = [&](const Tensor& theta) {
    const Tensor leaf = theta.clone().requires_grad_();
    const Tensor v = v_old + at::matmul(features, leaf).unsqueeze(1);
    loss_of(term, s, v, v_old, s.r).mean().backward();
    return leaf.grad();
  };
  const std::int64_t size = features.size(1);
  const Tensor zero = at::zeros({size}, at::kDouble), at_zero = gradient(zero);
  std::vector<Tensor> columns;
  for (std::int64_t j = 0; j < size; ++j) {
    Tensor unit = zero.clone();
    unit[j] = 1;
    columns.push_back(gradient(unit) - at_zero);
  }
  const Tensor hessian = at::stack(columns, 1) + 1e-9 * at::eye(size, at::kDouble);
  const Tensor theta = at::linalg_solve(hessian, -at_zero);
  return [theta](const Tensor& x) { return at::matmul(bumps(x), theta); };
}

struct Line {
  Tensor x = at::linspace(-1.6, 1.6, 33, at::kDouble).unsqueeze(1);
  Tensor t;
  explicit Line(double time) : t(at::full({33}, time, at::kDouble)) {}
};

// Delta = alpha (v_pos - v_old).
Tensor improvement(const Line& line) {
  const Tensor alpha = probability_of_good(line.x, line.t).unsqueeze(1);
  return (alpha * (good().velocity(line.x, line.t) - all().velocity(line.x, line.t))).squeeze(1);
}

double off(const Tensor& got, const Tensor& expected) {
  return ((got - expected).norm() / expected.norm()).item<double>();
}

}  // namespace

TEST_CASE("the improvement direction is the same seen from good and from bad data") {
  for (const double time : {0.2, 0.6, 0.9}) {
    const Line line(time);
    const Tensor alpha = probability_of_good(line.x, line.t).unsqueeze(1);
    const Tensor from_bad =
        (1 - alpha) * (all().velocity(line.x, line.t) - bad().velocity(line.x, line.t));
    CHECK(relative_distance(from_bad.squeeze(1), improvement(line)) < 1e-12);
  }
}

TEST_CASE("the NFT loss of the paper is least at v_old + (2 / beta) Delta") {
  for (const double time : {0.4, 0.75}) {
    const Line line(time);
    const Tensor delta = improvement(line);
    for (const double beta : {0.5, 2.0}) {
      INFO("t " << time << ", beta " << beta);
      const Tensor got = fitted(cf::PaperNft{.beta = beta}, time)(line.x);
      CHECK(off(got, 2 / beta * delta) < 0.08);
      // The optimum of the other beta is far away, so the test can tell.
      CHECK(off(got, 2 / (2.5 - beta) * delta) > 0.5);
    }
  }
}

// At one time w(t) is one factor: it changes the loss, not where it is least.
TEST_CASE("a weight of time does not move the minimum at a time") {
  const Line line(0.4);
  const Tensor plain = fitted(cf::PaperNft{}, 0.4)(line.x);
  const Tensor weighted = fitted(cf::PaperNft{.weight = cf::time_weight::t}, 0.4)(line.x);
  CHECK(off(weighted, plain) < 0.01);
}

// Without the negative branch the minimiser is that of the r-weighted matching loss:
// v_old + (v_pos - v_old) / beta, which for beta 1 forgets v_old.
TEST_CASE("without its negative branch the loss is least at the velocity of the good data") {
  const Line line(0.6);
  const Tensor got = fitted(cf::PaperNft{.negative_branch = false}, 0.6)(line.x);
  const Tensor towards =
      (good().velocity(line.x, line.t) - all().velocity(line.x, line.t)).squeeze(1);
  CHECK(off(got, towards) < 0.08);
}

TEST_CASE("at v_old the value does not depend on r, and the gradient does") {
  const Sample s = sample(64, 0.55);
  const Tensor v_old = all().velocity(s.x_t, s.t), target = cf::velocity_target(s.x0, s.eps);
  const auto at_v_old = [&](const auto& term, const Tensor& r) {
    const Tensor v = v_old.clone().requires_grad_();
    const Tensor loss = loss_of(term, s, v, v_old, r);
    loss.sum().backward();
    return std::pair<Tensor, Tensor>(loss.detach(), v.grad());
  };
  for (const double beta : {0.1, 1.0, 3.0}) {
    const cf::PaperNft paper{.beta = beta};
    const cf::Nft published{.beta = beta};
    const Tensor half = at::full_like(s.r, 0.5);
    const Tensor value = at_v_old(paper, half).first;
    const Tensor published_value = at_v_old(published, half).first;
    for (const Tensor& r : {at::zeros_like(s.r), at::ones_like(s.r), s.r}) {
      const auto [loss, gradient] = at_v_old(paper, r);
      CHECK(relative_distance(loss, value) < 1e-12);
      const Tensor expected = 2 * beta * (2 * r - 1).unsqueeze(1) * (v_old - target);
      CHECK(relative_distance(gradient, expected) < 1e-12);

      // In the published form the same, times clip t^2 / (beta mean |x0_b - x0|).
      const auto [loss2, gradient2] = at_v_old(published, r);
      CHECK(relative_distance(loss2, published_value) < 1e-12);
      const Tensor error = s.t.unsqueeze(1) * (v_old - target);
      const Tensor factor = 5 / beta * s.t.square().unsqueeze(1) / error.abs();
      CHECK(relative_distance(gradient2, factor * expected) < 1e-12);
    }
    CHECK(at_v_old(paper, half).second.abs().max().item<double>() < 1e-12);
  }
}

TEST_CASE("the gradient at v_old is a mean over the dimensions of a sample") {
  const std::vector<std::int64_t> shape{5, 2, 3};
  Sample s{
      laws::doubles(shape, 1), laws::doubles(shape, 2), at::full({5}, 0.3, at::kDouble), {}, {}};
  s.x_t = cf::interpolate(s.x0, s.eps, s.t);
  s.r = at::linspace(0, 1, 5, at::kDouble);
  const Tensor v_old = laws::doubles(shape, 3), v = v_old.clone().requires_grad_();
  loss_of(cf::PaperNft{.beta = 0.7}, s, v, v_old, s.r).sum().backward();
  const Tensor expected =
      2 * 0.7 * cf::per_sample(2 * s.r - 1, v_old) * (v_old - (s.eps - s.x0)) / 6;
  CHECK(relative_distance(v.grad(), expected) < 1e-12);
}
