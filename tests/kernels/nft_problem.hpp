#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <thread>
#include <type_traits>
#include <vector>

#include <contraflow/kernels/nft_loss.hpp>

namespace nft_test {

namespace kernels = contraflow::kernels;

// Inputs of one loss and room for its outputs.
template <class V, class X = V>
struct Problem {
  std::int64_t batch, elements;
  std::vector<V> v_theta, v_old, v_ref, gradient;
  std::vector<X> x0, eps;
  std::vector<double> t, r, weight, positive, negative, kl;

  Problem(std::int64_t samples, std::int64_t size, unsigned seed = 5)
      : batch(samples), elements(size) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<double> uniform(0.05, 0.95);
    const auto fill = [&](auto& array, double scale) {
      using T = typename std::remove_reference_t<decltype(array)>::value_type;
      for (std::int64_t i = 0; i < batch * elements; ++i) {
        array.push_back(static_cast<T>(static_cast<float>(scale) * normal(generator)));
      }
    };
    fill(v_theta, 1.0);
    fill(v_old, 1.0);
    fill(v_ref, 1.0);
    fill(x0, 1.5);
    fill(eps, 1.0);
    for (std::int64_t i = 0; i < batch; ++i) {
      t.push_back(uniform(generator));
      r.push_back(uniform(generator));
      weight.push_back(uniform(generator));
    }
    gradient.resize(v_theta.size());
    for (auto* terms : {&positive, &negative, &kl}) terms->resize(t.size());
  }

  kernels::NftLossArrays<V, X> arrays() {
    return {.v_theta = v_theta.data(),
            .v_old = v_old.data(),
            .v_ref = v_ref.data(),
            .x0 = x0.data(),
            .eps = eps.data(),
            .t = t.data(),
            .r = r.data(),
            .gradient = gradient.data(),
            .batch = batch,
            .elements = elements};
  }

  kernels::NftLossOutputs outputs() {
    return {.positive = positive.data(), .negative = negative.data(), .kl = kl.data()};
  }

  template <class Weighting, class Loop = kernels::SerialLoop>
  kernels::NftLossValue run(const kernels::NftLossSettings& settings, const Weighting& weighting,
                            const Loop& loop = {}) {
    return kernels::nft_loss(arrays(), settings, weighting, outputs(), loop);
  }
};

// Largest distance of two arrays, relative to the largest entry of the second.
template <class A, class B>
double relative_distance(const A& got, const B& expected) {
  double apart = 0, largest = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(expected.size()); ++i) {
    const auto e = static_cast<double>(expected[i]);
    const double distance = std::abs(static_cast<double>(got[i]) - e);
    if (!std::isfinite(distance)) return std::numeric_limits<double>::infinity();
    apart = std::max(apart, distance);
    largest = std::max(largest, std::abs(e));
  }
  return largest > 0 ? apart / largest : apart;
}

// A thread a range.
struct ThreadLoop {
  std::int64_t count;

  std::int64_t threads() const { return count; }

  template <class Body>
  void operator()(std::int64_t size, Body&& body) const {
    const auto bound = [&](std::int64_t k) { return size * k / count; };
    std::vector<std::jthread> all;
    for (std::int64_t k = 0; k < count; ++k) {
      all.emplace_back([&body, begin = bound(k), end = bound(k + 1)] { body(begin, end); });
    }
  }
};

}  // namespace nft_test
