// The fused NFT loss against its definition, written out, and against its properties.

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <torch/types.h>

#include <contraflow/kernels/nft_loss.hpp>

#include "nft_problem.hpp"

namespace kernels = contraflow::kernels;
using nft_test::Problem;
using nft_test::relative_distance;
using nft_test::ThreadLoop;

namespace {

// Denominators of the adaptive weighting, [batch] for each branch.
struct Denominators {
  std::vector<double> positive, negative;
};

template <class V, class X>
Denominators denominators(const Problem<V, X>& p, double beta, double floor) {
  Denominators result;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    double positive = 0, negative = 0;
    for (std::int64_t i = b * p.elements; i < (b + 1) * p.elements; ++i) {
      const double v = static_cast<double>(p.v_theta[i]), v_old = static_cast<double>(p.v_old[i]);
      const double x0 = static_cast<double>(p.x0[i]), eps = static_cast<double>(p.eps[i]);
      const double x_t = (1 - p.t[b]) * x0 + p.t[b] * eps;
      positive += std::abs(x_t - p.t[b] * ((1 - beta) * v_old + beta * v) - x0);
      negative += std::abs(x_t - p.t[b] * ((1 + beta) * v_old - beta * v) - x0);
    }
    const auto n = static_cast<double>(p.elements);
    result.positive.push_back(std::max(positive / n, floor));
    result.negative.push_back(std::max(negative / n, floor));
  }
  return result;
}

// The loss term by term in double, with x_t and both branches, as one would write it down. With
// denominators the branches are compared in x0, without them in velocity under p.weight.
template <class V, class X>
double defined_loss(const Problem<V, X>& p, double beta, double kl_weight, double scale,
                    const std::optional<Denominators>& adaptive) {
  double policy = 0, kl = 0;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    double positive = 0, negative = 0;
    for (std::int64_t i = b * p.elements; i < (b + 1) * p.elements; ++i) {
      const double v_theta = static_cast<double>(p.v_theta[i]);
      const double v_old = static_cast<double>(p.v_old[i]);
      const double x0 = static_cast<double>(p.x0[i]), eps = static_cast<double>(p.eps[i]);
      const double plus = (1 - beta) * v_old + beta * v_theta;
      const double minus = (1 + beta) * v_old - beta * v_theta;
      if (adaptive) {
        const double x_t = (1 - p.t[b]) * x0 + p.t[b] * eps;
        positive += std::pow(x_t - p.t[b] * plus - x0, 2) / adaptive->positive[b];
        negative += std::pow(x_t - p.t[b] * minus - x0, 2) / adaptive->negative[b];
      } else {
        positive += std::pow(plus - (eps - x0), 2);
        negative += std::pow(minus - (eps - x0), 2);
      }
      kl += std::pow(v_theta - static_cast<double>(p.v_ref[i]), 2);
    }
    const double factor = adaptive ? scale / beta : p.weight[b];
    policy += factor * (p.r[b] * positive + (1 - p.r[b]) * negative);
  }
  const auto n = static_cast<double>(p.batch * p.elements);
  return policy / n + kl_weight * kl / n;
}

template <class V, class X>
std::vector<double> finite_differences(Problem<V, X> p, double beta, double kl_weight, double scale,
                                       const std::optional<Denominators>& adaptive) {
  std::vector<double> gradient;
  constexpr double step = 1e-4;
  for (V& v : p.v_theta) {
    const V kept = v;
    v = kept + step;
    const double above = defined_loss(p, beta, kl_weight, scale, adaptive);
    v = kept - step;
    const double below = defined_loss(p, beta, kl_weight, scale, adaptive);
    v = kept;
    gradient.push_back((above - below) / (2 * step));
  }
  return gradient;
}

// The paper's form for one time after another, to show that a weighting can come from outside.
struct SquaredTimeWeighting {
  static constexpr bool uses_absolute = false;
  const double* t;

  kernels::NftBranch branch(double, double mean_square, double) const { return {mean_square, 1.0}; }
  double factor(std::int64_t sample, double) const { return t[sample] * t[sample]; }
};

template <class Weighting>
void check_thread_independence(std::int64_t batch, std::int64_t elements,
                               const Weighting& weighting) {
  Problem<float> serial(batch, elements);
  const auto expected = serial.run({.kl_weight = 0.1}, weighting);
  for (const std::int64_t threads : {2, 3, 5, 16}) {
    INFO(threads << " threads on [" << batch << ", " << elements << "]");
    Problem<float> parallel(batch, elements);
    const auto value = parallel.run({.kl_weight = 0.1}, weighting, ThreadLoop{threads});
    CHECK(value.total == expected.total);
    CHECK(parallel.positive == serial.positive);
    CHECK(parallel.negative == serial.negative);
    CHECK(parallel.kl == serial.kl);
    CHECK(parallel.gradient == serial.gradient);
  }
}

}  // namespace

TEST_CASE("value and gradient in double are those of the definition") {
  for (const double beta : {0.1, 1.0, 3.0}) {
    INFO("beta " << beta);
    Problem<double> p(3, 11);
    const double scale = 5.0, kl_weight = 0.3, floor = 1e-5;

    const auto adaptive = denominators(p, beta, floor);
    const auto published = p.run({.beta = beta, .kl_weight = kl_weight},
                                 kernels::AdaptiveWeighting{.scale = scale, .weight_floor = floor});
    CHECK(relative_distance(std::array{published.total},
                            std::array{defined_loss(p, beta, kl_weight, scale, adaptive)}) < 1e-12);
    CHECK(relative_distance(p.gradient, finite_differences(p, beta, kl_weight, scale, adaptive)) <
          1e-8);

    const auto paper = p.run({.beta = beta, .kl_weight = kl_weight},
                             kernels::FixedWeighting{.weight = p.weight.data()});
    CHECK(relative_distance(std::array{paper.total},
                            std::array{defined_loss(p, beta, kl_weight, scale, std::nullopt)}) <
          1e-12);
    CHECK(relative_distance(p.gradient,
                            finite_differences(p, beta, kl_weight, scale, std::nullopt)) < 1e-8);
  }
}

TEST_CASE("every length of a sample is summed and written to its end") {
  std::vector<std::int64_t> lengths{1023, 1024, 1025, 16383, 16385, 40000};
  for (std::int64_t n = 1; n <= 67; ++n) lengths.push_back(n);
  for (const std::int64_t n : lengths) {
    INFO(n << " elements");
    Problem<float> narrow(2, n);
    Problem<double> wide(2, n);
    const kernels::NftLossSettings settings{.beta = 0.7, .kl_weight = 0.2};
    const auto value = narrow.run(settings, kernels::AdaptiveWeighting{});
    const double expected = defined_loss(wide, 0.7, 0.2, 5.0, denominators(wide, 0.7, 1e-5));
    CHECK(relative_distance(std::array{value.total}, std::array{expected}) < 1e-6);
    const auto exact = wide.run(settings, kernels::AdaptiveWeighting{});
    CHECK(relative_distance(std::array{exact.total}, std::array{expected}) < 1e-12);
    CHECK(relative_distance(narrow.gradient, wide.gradient) < 1e-5);
  }
}

TEMPLATE_TEST_CASE("sixteen-bit velocities are computed in float", "", at::BFloat16, at::Half) {
  Problem<TestType, float> half(3, 2050);
  Problem<float> full(3, 2050);
  full.v_theta.assign(half.v_theta.begin(), half.v_theta.end());
  full.v_old.assign(half.v_old.begin(), half.v_old.end());
  full.v_ref.assign(half.v_ref.begin(), half.v_ref.end());
  const kernels::NftLossSettings settings{.kl_weight = 0.2, .upstream = 1024.0};
  const auto value = half.run(settings, kernels::AdaptiveWeighting{});
  CHECK(value.total == full.run(settings, kernels::AdaptiveWeighting{}).total);
  CHECK(half.positive == full.positive);
  std::vector<TestType> rounded;
  for (const float g : full.gradient) rounded.push_back(static_cast<TestType>(g));
  CHECK(half.gradient == rounded);
}

TEST_CASE("bits do not depend on the number of threads") {
  for (const auto& [batch, elements] :
       {std::array<std::int64_t, 2>{1, 50000}, {3, 40001}, {9, 16385}, {33, 7}, {1, 3}}) {
    check_thread_independence(batch, elements, kernels::AdaptiveWeighting{});
    check_thread_independence(batch, elements, kernels::FixedWeighting{});
  }
}

TEST_CASE("samples do not see each other") {
  Problem<float> together(4, 2000), alone(1, 2000);
  const auto whole = together.run({}, kernels::AdaptiveWeighting{});
  double sum = 0;
  for (std::int64_t b = 0; b < 4; ++b) {
    INFO("sample " << b);
    auto arrays = together.arrays();
    arrays.v_theta += b * 2000;
    arrays.v_old += b * 2000;
    arrays.v_ref += b * 2000;
    arrays.x0 += b * 2000;
    arrays.eps += b * 2000;
    arrays.t += b;
    arrays.r += b;
    arrays.gradient = alone.gradient.data();
    arrays.batch = 1;
    sum += kernels::nft_loss(arrays, {}, kernels::AdaptiveWeighting{}, alone.outputs()).policy;
    CHECK(alone.positive[0] == together.positive[b]);
    for (float& g : alone.gradient) g /= 4;
    const std::vector<float> part(together.gradient.begin() + b * 2000,
                                  together.gradient.begin() + (b + 1) * 2000);
    CHECK(relative_distance(alone.gradient, part) < 1e-6);
  }
  CHECK(relative_distance(std::array{sum / 4}, std::array{whole.policy}) < 1e-14);
}

TEST_CASE("without a reference there is no KL term") {
  Problem<float> with(3, 100), without(3, 100);
  auto arrays = without.arrays();
  arrays.v_ref = nullptr;
  without.kl.assign(3, 7.0);
  const auto expected = with.run({.kl_weight = 0.0}, kernels::AdaptiveWeighting{});
  const auto value = kernels::nft_loss(arrays, {.kl_weight = 0.5}, kernels::AdaptiveWeighting{},
                                       {without.positive.data(), without.negative.data(), nullptr});
  CHECK(value.policy == expected.policy);
  CHECK(value.total == value.policy);
  CHECK(value.kl == 0.0);
  CHECK(without.gradient == with.gradient);
}

TEST_CASE("the value does not need the gradient") {
  Problem<float> p(3, 20000);
  const auto expected = p.run({.kl_weight = 0.1}, kernels::AdaptiveWeighting{});
  auto arrays = p.arrays();
  arrays.gradient = nullptr;
  for (const std::int64_t threads : {1, 4}) {
    const auto value = kernels::nft_loss(arrays, {.kl_weight = 0.1}, kernels::AdaptiveWeighting{},
                                         p.outputs(), ThreadLoop{threads});
    CHECK(value.total == expected.total);
  }
}

TEST_CASE("the upstream factor scales the gradient alone") {
  Problem<double> once(2, 50), thrice(2, 50);
  const auto value = once.run({.kl_weight = 0.1}, kernels::AdaptiveWeighting{});
  CHECK(thrice.run({.kl_weight = 0.1, .upstream = 3.0}, kernels::AdaptiveWeighting{}).total ==
        value.total);
  for (double& g : once.gradient) g *= 3;
  CHECK(relative_distance(thrice.gradient, once.gradient) < 1e-14);
}

TEST_CASE("at the old policy the value forgets r and the gradient does not") {
  const double beta = 0.8;
  Problem<double> p(4, 200);
  p.v_theta = p.v_old;
  const auto first = p.run({.beta = beta}, kernels::FixedWeighting{});
  const auto direction = p.r;
  std::vector<double> expected;
  for (std::int64_t i = 0; i < p.batch * p.elements; ++i) {
    const double v = p.eps[i] - p.x0[i];
    expected.push_back(2 * beta * (2 * direction[i / p.elements] - 1) * (p.v_old[i] - v) /
                       static_cast<double>(p.batch * p.elements));
  }
  CHECK(relative_distance(p.gradient, expected) < 1e-13);

  const auto before = p.gradient;
  for (double& r : p.r) r = 1.0 - r;
  CHECK(relative_distance(std::array{p.run({.beta = beta}, kernels::FixedWeighting{}).policy},
                          std::array{first.policy}) < 1e-14);
  for (double& g : p.gradient) g = -g;
  CHECK(relative_distance(p.gradient, before) < 1e-13);
}

TEST_CASE("a branch that hits its target is divided by the floor") {
  Problem<double> p(1, 6);
  for (std::int64_t i = 0; i < 6; ++i) p.v_theta[i] = p.v_old[i] = p.eps[i] - p.x0[i];
  p.v_theta[0] += 1e-9;
  p.run({.kl_weight = 0.0}, kernels::AdaptiveWeighting{.weight_floor = 0.5});
  const double square = std::pow(p.t[0] * 1e-9, 2) / 6;
  CHECK(relative_distance(p.positive, std::array{square / 0.5}) < 1e-6);
}

TEST_CASE("nothing that is not a number hides behind the floor") {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Problem<double> p(3, 40);
    p.v_theta[41] = bad;
    CHECK_FALSE(std::isfinite(p.run({}, kernels::AdaptiveWeighting{}).total));
    CHECK_FALSE(std::isfinite(p.positive[1]));
    CHECK(std::isfinite(p.positive[0]));
    CHECK_FALSE(std::isfinite(p.gradient[41]));
    CHECK(std::isfinite(p.gradient[0]));
  }
}

TEST_CASE("at time zero the published form asks for nothing") {
  Problem<float> p(2, 30);
  p.t.assign(2, 0.0);
  CHECK(p.run({.kl_weight = 0.0}, kernels::AdaptiveWeighting{}).policy == 0.0);
  for (const float g : p.gradient) CHECK(g == 0.0f);
}

TEST_CASE("a weighting can come from outside") {
  Problem<double> p(3, 60), q(3, 60);
  for (std::int64_t b = 0; b < 3; ++b) q.weight[b] = q.t[b] * q.t[b];
  const auto expected = q.run({}, kernels::FixedWeighting{.weight = q.weight.data()});
  CHECK(p.run({}, SquaredTimeWeighting{p.t.data()}).total == expected.total);
  CHECK(p.gradient == q.gradient);
}

TEST_CASE("bad input is refused by name") {
  Problem<float> p(2, 5);
  const auto refused = [&](kernels::NftLossArrays<float, float> arrays,
                           kernels::NftLossSettings settings, kernels::NftLossOutputs outputs) {
    try {
      kernels::nft_loss(arrays, settings, kernels::AdaptiveWeighting{}, outputs);
    } catch (const contraflow::Error& error) {
      return error.argument();
    }
    return std::string("accepted");
  };
  const auto array_refused = [&](auto change) {
    auto arrays = p.arrays();
    change(arrays);
    return refused(arrays, {}, p.outputs());
  };
  const auto output_refused = [&](auto change) {
    auto outputs = p.outputs();
    change(outputs);
    return refused(p.arrays(), {}, outputs);
  };
  CHECK(refused(p.arrays(), {}, p.outputs()) == "accepted");
  CHECK(array_refused([](auto& a) { a.batch = 0; }) == "batch");
  CHECK(array_refused([](auto& a) { a.elements = 0; }) == "elements");
  CHECK(array_refused([](auto& a) { a.v_theta = nullptr; }) == "v_theta");
  CHECK(array_refused([](auto& a) { a.v_old = nullptr; }) == "v_old");
  CHECK(array_refused([](auto& a) { a.x0 = nullptr; }) == "x0");
  CHECK(array_refused([](auto& a) { a.eps = nullptr; }) == "eps");
  CHECK(array_refused([](auto& a) { a.t = nullptr; }) == "t");
  CHECK(array_refused([](auto& a) { a.r = nullptr; }) == "r");
  CHECK(output_refused([](auto& o) { o.positive = nullptr; }) == "positive");
  CHECK(output_refused([](auto& o) { o.negative = nullptr; }) == "negative");
  CHECK(output_refused([](auto& o) { o.kl = nullptr; }) == "kl");
  for (const double beta : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
                            std::numeric_limits<double>::infinity()}) {
    CHECK(refused(p.arrays(), {.beta = beta}, p.outputs()) == "beta");
  }
}
