// Activations against their formulas in float64.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include <contraflow/kernels/gelu_silu.hpp>

#include "numbers.hpp"

namespace kernels = contraflow::kernels;

namespace {

double defined_as(kernels::GeluTanh, double x) {
  return x / 2 * (1 + std::tanh(std::sqrt(2 / 3.14159265358979324) * (x + 0.044715 * x * x * x)));
}
double defined_as(kernels::Silu, double x) { return x / (1 + std::exp(-x)); }

template <class Activation>
std::vector<float> activated(const std::vector<float>& x) {
  std::vector<float> out(x.size());
  kernels::activate<Activation>(x.data(), out.data(), std::int64_t(x.size()));
  return out;
}

template <class Activation>
std::vector<float> slopes(const std::vector<float>& x) {
  const std::vector<float> ones(x.size(), 1.0f);
  std::vector<float> dx(x.size());
  kernels::activate_backward<Activation>(x.data(), ones.data(), dx.data(), std::int64_t(x.size()));
  return dx;
}

std::vector<float> spread(float low, float high, std::size_t count) {
  std::vector<float> x(count);
  for (std::size_t i = 0; i < count; ++i) x[i] = low + (high - low) * float(i) / float(count - 1);
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("activations are their formula to a few units in the last place", "",
                   kernels::GeluTanh, kernels::Silu) {
  const std::vector<float> x = spread(-40, 40, 20001);
  const auto out = activated<TestType>(x), slope = slopes<TestType>(x);
  double worst = 0, worst_slope = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = defined_as(TestType{}, x[i]);
    // One and tanh cancel in float64, too: far left only absolute distances say something.
    worst = std::max(worst, std::abs(out[i] - expected) / std::max(std::abs(expected), 1e-9));
    const double step = 1e-5;
    const double quotient =
        (defined_as(TestType{}, x[i] + step) - defined_as(TestType{}, x[i] - step)) / (2 * step);
    worst_slope = std::max(worst_slope, std::abs(slope[i] - quotient));
  }
  CHECK(worst < 3e-6);
  CHECK(worst_slope < 1e-6);
}

TEMPLATE_TEST_CASE("far from zero activations are zero or the identity", "", kernels::GeluTanh,
                   kernels::Silu) {
  const float largest = std::numeric_limits<float>::max();
  const std::vector<float> x{-1e6f, -1e3f, 1e3f, 1e6f, 0.0f, largest};
  const std::vector<float> out = activated<TestType>(x), slope = slopes<TestType>(x);
  CHECK(out == std::vector<float>{0.0f, 0.0f, 1e3f, 1e6f, 0.0f, largest});
  CHECK(std::vector<float>(slope.begin(), slope.begin() + 4) == std::vector<float>{0, 0, 1, 1});
}

TEMPLATE_TEST_CASE("activations of what is not a number are not numbers", "", kernels::GeluTanh,
                   kernels::Silu) {
  std::vector<float> x = numbers::normal(40);
  x[17] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> out = activated<TestType>(x), slope = slopes<TestType>(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    CHECK(std::isnan(out[i]) == (i == 17));
    CHECK(std::isnan(slope[i]) == (i == 17));
  }
}

TEMPLATE_TEST_CASE("an element's activation has the same bits everywhere", "", kernels::GeluTanh,
                   kernels::Silu) {
  const std::vector<float> x = numbers::normal(10007);
  const std::vector<float> expected = activated<TestType>(x), dx = slopes<TestType>(x);
  for (std::size_t count = 1; count <= 67; ++count) {
    const std::vector<float> part(x.begin() + 3, x.begin() + 3 + std::ptrdiff_t(count));
    const auto first = expected.begin() + 3;
    CHECK(activated<TestType>(part) == std::vector<float>(first, first + std::ptrdiff_t(count)));
  }
  for (const std::int64_t threads : {2, 3, 7}) {
    std::vector<float> out = x, gradient(x.size(), 1.0f);
    // In place, too.
    kernels::activate<TestType>(out.data(), out.data(), std::int64_t(x.size()),
                                numbers::ThreadLoop{threads});
    kernels::activate_backward<TestType>(x.data(), gradient.data(), gradient.data(),
                                         std::int64_t(x.size()), numbers::ThreadLoop{threads});
    CHECK(out == expected);
    CHECK(gradient == dx);
  }
}
