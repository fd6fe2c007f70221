#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "nft_problem.hpp"

/// What the tests of the float32 kernels share.
namespace numbers {

using nft_test::relative_distance;
using nft_test::ThreadLoop;

/// Normal numbers from a seed.
inline std::vector<float> normal(std::int64_t count, unsigned seed = 1, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = scale * distribution(generator);
  return values;
}

/// The same numbers in float64.
inline std::vector<double> wide(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

/// Gradient of a function of @p x by central differences.
template <class F>
std::vector<double> difference_quotients(std::vector<double> x, const F& f) {
  constexpr double step = 1e-5;
  std::vector<double> gradient;
  for (double& value : x) {
    const double kept = value;
    value = kept + step;
    const double above = f(x);
    value = kept - step;
    const double below = f(x);
    value = kept;
    gradient.push_back((above - below) / (2 * step));
  }
  return gradient;
}

/// Sum of products.
template <class A, class B>
double dot(const A& a, const B& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return sum;
}

}  // namespace numbers
