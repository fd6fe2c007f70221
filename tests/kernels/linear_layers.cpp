// Linear layers with activations between them against their formulas in float64.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include <contraflow/kernels/linear_layers.hpp>

#include "numbers.hpp"

namespace kernels = contraflow::kernels;
using numbers::relative_distance;
using numbers::ThreadLoop;
using numbers::wide;

namespace {

using Doubles = std::vector<double>;

double defined_as(kernels::GeluTanh, double x) {
  return x / 2 * (1 + std::tanh(std::sqrt(2 / 3.14159265358979324) * (x + 0.044715 * x * x * x)));
}
double defined_as(kernels::Silu, double x) { return x / (1 + std::exp(-x)); }

// A network of the given sizes, with what goes in and the gradient of what comes out.
struct Problem {
  std::int64_t rows;
  std::vector<std::int64_t> sizes;
  bool has_added, has_bias;
  std::vector<float> x, added, dv;
  std::vector<float> gate = {};  // empty for none
  std::vector<std::vector<float>> weights = {}, biases = {};

  Problem(std::int64_t row_count, std::vector<std::int64_t> all_sizes, bool adds = false,
          bool is_biased = true)
      : rows(row_count),
        sizes(std::move(all_sizes)),
        has_added(adds),
        has_bias(is_biased),
        x(numbers::normal(rows * sizes.front(), 1)),
        added(numbers::normal(rows * sizes[1], 2)),
        dv(numbers::normal(rows * sizes.back(), 3)) {
    for (std::size_t l = 0; l + 1 < sizes.size(); ++l) {
      const auto scale = float(1 / std::sqrt(double(sizes[l])));
      weights.push_back(numbers::normal(sizes[l] * sizes[l + 1], 10 + unsigned(l), scale));
      biases.push_back(numbers::normal(sizes[l + 1], 20 + unsigned(l)));
    }
  }
  template <class Activation>
  kernels::Mlp<Activation> network() const {
    std::vector<kernels::MlpLayer> layers;
    for (std::size_t l = 0; l < weights.size(); ++l) {
      layers.push_back(
          {weights[l].data(), has_bias ? biases[l].data() : nullptr, sizes[l], sizes[l + 1]});
    }
    return kernels::Mlp<Activation>(
        layers, {gate.empty() ? nullptr : gate.data(), std::int64_t(gate.size())});
  }
  Problem gated(std::int64_t size) && {
    gate = numbers::normal(size, 5);
    return std::move(*this);
  }
};

// Everything that the kernel gives: v, then the gradients by x, by what is added, by the gate, and
// by weights and biases in turn.
using Results = std::vector<std::vector<float>>;

template <class Activation, class Loop = kernels::SerialLoop>
Results computed(const Problem& p, const Loop& loop = {}) {
  const kernels::Mlp<Activation> network = p.network<Activation>();
  Results all{std::vector<float>(p.dv.size()), std::vector<float>(p.x.size()),
              std::vector<float>(p.added.size()), std::vector<float>(p.gate.size())};
  std::vector<kernels::MlpLayerGradient> gradients;
  for (std::size_t l = 0; l < p.weights.size(); ++l) {
    all.emplace_back(p.weights[l].size());
    all.emplace_back(p.biases[l].size());
  }
  for (std::size_t l = 0; l < p.weights.size(); ++l) {
    gradients.push_back({all[4 + 2 * l].data(), p.has_bias ? all[5 + 2 * l].data() : nullptr});
  }
  std::vector<float> saved(std::size_t(network.saved_size(p.rows)));
  const float* added = p.has_added ? p.added.data() : nullptr;
  network.forward({p.rows, p.x.data(), added, all[0].data(), saved.data()}, loop);
  network.backward({p.rows, p.x.data(), saved.data(), p.dv.data(), all[1].data(), all[2].data(),
                    p.gate.empty() ? nullptr : all[3].data(), gradients},
                   loop);
  return all;
}

// v of a row in float64.
template <class Activation>
Doubles defined_row(const Problem& p, const Doubles& x, const Doubles& added,
                    const std::vector<Doubles>& weights, const std::vector<Doubles>& biases,
                    const Doubles& gate) {
  Doubles h = x;
  for (std::size_t l = 0; l < weights.size(); ++l) {
    Doubles next(std::size_t(p.sizes[l + 1]));
    for (std::size_t i = 0; i < next.size(); ++i) {
      if (p.has_bias) next[i] = biases[l][i];
      for (std::size_t k = 0; k < h.size(); ++k) next[i] += weights[l][i * h.size() + k] * h[k];
      if (l == 0 && p.has_added) next[i] += added[i];
      if (l + 1 < weights.size()) next[i] = defined_as(Activation{}, next[i]);
    }
    h = std::move(next);
  }
  double opening = 0;
  for (std::size_t k = 0; k < gate.size(); ++k) opening += gate[k] * x[x.size() - gate.size() + k];
  for (std::size_t j = 0; j < h.size() && !gate.empty(); ++j) h[j] += opening * x[j];
  return h;
}

Doubles row_of(const Doubles& all, std::int64_t row, std::int64_t size) {
  return {all.begin() + row * size, all.begin() + (row + 1) * size};
}

// The sum of dv v in float64, as a function of everything that goes in.
template <class Activation>
double defined_sum(const Problem& p, const Doubles& x, const Doubles& added,
                   const std::vector<Doubles>& weights, const std::vector<Doubles>& biases,
                   const Doubles& gate) {
  double sum = 0;
  for (std::int64_t row = 0; row < p.rows; ++row) {
    const Doubles v = defined_row<Activation>(
        p, row_of(x, row, p.sizes.front()), row_of(added, row, p.sizes[1]), weights, biases, gate);
    sum += numbers::dot(v, row_of(wide(p.dv), row, p.sizes.back()));
  }
  return sum;
}

template <class Activation>
void check_against_formula(const Problem& p) {
  const Results got = computed<Activation>(p);
  std::vector<Doubles> weights, biases;
  for (const auto& weight : p.weights) weights.push_back(wide(weight));
  for (const auto& bias : p.biases) biases.push_back(wide(bias));
  const Doubles x = wide(p.x), added = wide(p.added), gate = wide(p.gate);
  Doubles v;
  for (std::int64_t row = 0; row < p.rows; ++row) {
    const Doubles own = defined_row<Activation>(
        p, row_of(x, row, p.sizes.front()), row_of(added, row, p.sizes[1]), weights, biases, gate);
    v.insert(v.end(), own.begin(), own.end());
  }
  CHECK(relative_distance(wide(got[0]), v) < 1e-6);
  const auto check = [&](const std::vector<float>& gradient, const Doubles& at, const auto& f) {
    CHECK(relative_distance(wide(gradient), numbers::difference_quotients(at, f)) < 3e-6);
  };
  check(got[1], x, [&](const Doubles& y) {
    return defined_sum<Activation>(p, y, added, weights, biases, gate);
  });
  if (p.has_added) {
    check(got[2], added, [&](const Doubles& y) {
      return defined_sum<Activation>(p, x, y, weights, biases, gate);
    });
  }
  if (!gate.empty()) {
    check(got[3], gate, [&](const Doubles& y) {
      return defined_sum<Activation>(p, x, added, weights, biases, y);
    });
  }
  for (std::size_t l = 0; l < weights.size(); ++l) {
    INFO("layer " << l);
    const auto with = [&](std::vector<Doubles> all, const Doubles& one) {
      all[l] = one;
      return all;
    };
    check(got[4 + 2 * l], weights[l], [&](const Doubles& y) {
      return defined_sum<Activation>(p, x, added, with(weights, y), biases, gate);
    });
    if (!p.has_bias) continue;
    check(got[5 + 2 * l], biases[l], [&](const Doubles& y) {
      return defined_sum<Activation>(p, x, added, weights, with(biases, y), gate);
    });
  }
}

}  // namespace

TEMPLATE_TEST_CASE("layers have the values and gradients of their formula", "", kernels::Silu,
                   kernels::GeluTanh) {
  check_against_formula<TestType>({1, {1, 1}});
  check_against_formula<TestType>({7, {3, 4}, /*adds=*/true});
  check_against_formula<TestType>({5, {3, 17, 2}});
  check_against_formula<TestType>(Problem(11, {5, 17, 2}).gated(3));
  check_against_formula<TestType>({13, {2, 8, 16, 1}, /*adds=*/true});
  check_against_formula<TestType>({7, {9, 16, 8}, /*adds=*/false, /*is_biased=*/false});
}

TEST_CASE("blocks of rows make one sum, whole or not") {
  // More rows than a block has: every row twice is the same network with twice the gradients.
  for (const std::int64_t rows : {95, 96, 97, 211}) {
    INFO(rows);
    const Problem one(rows, {10, 24, 24, 2});
    Problem twice(2 * rows, {10, 24, 24, 2});
    for (std::size_t i = 0; i < twice.x.size(); ++i) twice.x[i] = one.x[i % one.x.size()];
    for (std::size_t i = 0; i < twice.dv.size(); ++i) twice.dv[i] = one.dv[i % one.dv.size()];
    const Results a = computed<kernels::Silu>(one), b = computed<kernels::Silu>(twice);
    for (std::size_t i = 0; i < one.dv.size(); ++i) {
      CHECK(b[0][i] == a[0][i]);
      CHECK(b[0][one.dv.size() + i] == a[0][i]);
    }
    for (std::size_t i = 4; i < a.size(); ++i) {
      std::vector<double> doubled = wide(a[i]);
      for (double& value : doubled) value *= 2;
      CHECK(relative_distance(wide(b[i]), doubled) < 1e-6);
    }
  }
}

TEST_CASE("bits of layers do not depend on the number of threads") {
  const Problem p(1100, {256, 256, 32});
  const Results alone = computed<kernels::GeluTanh>(p);
  for (const std::int64_t threads : {2, 3, 5}) {
    CHECK(computed<kernels::GeluTanh>(p, ThreadLoop{threads}) == alone);
  }
}

TEST_CASE("parts that threads take make one sum") {
  const Problem whole(1100, {256, 256, 32});
  const Results all = computed<kernels::GeluTanh>(whole);
  std::vector<std::vector<double>> sums(all.size());
  for (const std::int64_t first : {0, 200, 400, 600, 800, 1000}) {
    Problem part(first < 1000 ? 200 : 100, {256, 256, 32});
    const auto cut = [&](std::vector<float>& to, const std::vector<float>& from,
                         std::int64_t size) {
      std::copy_n(from.begin() + first * size, to.size(), to.begin());
    };
    cut(part.x, whole.x, 256);
    cut(part.dv, whole.dv, 32);
    const Results found = computed<kernels::GeluTanh>(part);
    CHECK(std::equal(found[0].begin(), found[0].end(), all[0].begin() + first * 32));
    CHECK(std::equal(found[1].begin(), found[1].end(), all[1].begin() + first * 256));
    for (std::size_t i = 4; i < all.size(); ++i) {
      sums[i].resize(all[i].size());
      for (std::size_t j = 0; j < all[i].size(); ++j) sums[i][j] += double(found[i][j]);
    }
  }
  for (std::size_t i = 4; i < all.size(); ++i)
    CHECK(relative_distance(wide(all[i]), sums[i]) < 3e-6);
}

TEST_CASE("what nobody wants of layers is not written, and nothing else changes") {
  const Problem p(100, {16, 24, 8});
  const Results all = computed<kernels::Silu>(p);
  const auto network = p.network<kernels::Silu>();
  std::vector<float> v(p.dv.size()), saved(std::size_t(network.saved_size(p.rows)));
  network.forward({p.rows, p.x.data(), nullptr, v.data(), nullptr});
  CHECK(v == all[0]);
  network.forward({p.rows, p.x.data(), nullptr, v.data(), saved.data()});
  std::vector<float> dx(p.x.size());
  network.backward(
      {p.rows, p.x.data(), saved.data(), p.dv.data(), dx.data(), nullptr, nullptr, {}});
  CHECK(dx == all[1]);
}
