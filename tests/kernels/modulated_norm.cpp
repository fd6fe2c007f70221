// Normalisation, modulation and gated residuals against their formulas in float64, gradients
// against difference quotients of these.

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/kernels/modulated_norm.hpp>

#include "numbers.hpp"

namespace kernels = contraflow::kernels;
using kernels::TokenShape;
using numbers::dot;
using numbers::relative_distance;

namespace {

constexpr float eps = 1e-6f;
constexpr std::int64_t chunks = 3;

// Tokens, and rows of a sample as chunks of a wider array.
struct Problem {
  TokenShape shape;
  std::vector<float> x, y, rows, dout;

  explicit Problem(TokenShape s)
      : shape(s),
        x(numbers::normal(count(), 1, 2)),
        y(numbers::normal(count(), 2)),
        rows(numbers::normal(s.batch * chunks * s.size, 3)),
        dout(numbers::normal(count(), 4)) {}

  std::int64_t count() const { return shape.batch * shape.tokens * shape.size; }
  kernels::SampleRows<const float> chunk(std::int64_t i) const {
    return {rows.data() + i * shape.size, chunks * shape.size};
  }
};

struct NormResult {
  std::vector<float> out, moments, dx, drows;
};

template <class Loop = kernels::SerialLoop>
NormResult normalised(const Problem& p, bool with_rows = true, const Loop& loop = {}) {
  const std::size_t count = p.x.size();
  const std::int64_t size = p.shape.size;
  NormResult r{std::vector<float>(count), std::vector<float>(2 * count), std::vector<float>(count),
               std::vector<float>(p.rows.size())};
  kernels::modulated_norm(
      {p.shape, p.x.data(), p.chunk(0), p.chunk(1), r.out.data(), r.moments.data()}, eps, loop);
  kernels::SampleRows<float> dshift, dscale;
  if (with_rows) {
    dshift = {r.drows.data(), chunks * size};
    dscale = {r.drows.data() + size, chunks * size};
  }
  kernels::modulated_norm_backward({p.shape, p.x.data(), r.moments.data(), p.chunk(1),
                                    p.dout.data(), r.dx.data(), dshift, dscale},
                                   loop);
  return r;
}

std::vector<double> defined_norm(TokenShape shape, const std::vector<double>& x,
                                 const std::vector<double>& rows) {
  std::vector<double> out;
  const auto size = static_cast<std::size_t>(shape.size);
  for (std::size_t first = 0; first < x.size(); first += size) {
    double mean = 0, variance = 0;
    for (std::size_t i = 0; i < size; ++i) mean += x[first + i] / double(size);
    for (std::size_t i = 0; i < size; ++i) {
      variance += std::pow(x[first + i] - mean, 2) / double(size);
    }
    const std::size_t sample = first / size / static_cast<std::size_t>(shape.tokens);
    const double* shift = rows.data() + sample * chunks * size;
    for (std::size_t i = 0; i < size; ++i) {
      const double h = (x[first + i] - mean) / std::sqrt(variance + double(eps));
      out.push_back(h * (1 + shift[size + i]) + shift[i]);
    }
  }
  return out;
}

struct GateResult {
  std::vector<float> out, dy, drows;
};

template <class Loop = kernels::SerialLoop>
GateResult gated(const Problem& p, bool with_rows = true, const Loop& loop = {}) {
  const std::size_t count = p.x.size();
  GateResult r{std::vector<float>(count), std::vector<float>(count),
               std::vector<float>(p.rows.size())};
  kernels::gated_residual({p.shape, p.x.data(), p.chunk(2), p.y.data(), r.out.data()}, loop);
  kernels::SampleRows<float> dgate;
  if (with_rows) dgate = {r.drows.data() + 2 * p.shape.size, chunks * p.shape.size};
  kernels::gated_residual_backward(
      {p.shape, p.chunk(2), p.y.data(), p.dout.data(), r.dy.data(), dgate}, loop);
  return r;
}

std::vector<TokenShape> shapes() {
  std::vector<TokenShape> all{{1, 1, 64}, {3, 16, 64}, {2, 65, 20}, {1, 130, 7}, {2, 3, 1000}};
  for (std::int64_t size = 2; size <= 37; ++size) all.push_back({2, 3, size});
  return all;
}

}  // namespace

TEST_CASE("normalisation and modulation are their formula on every size") {
  for (const TokenShape& shape : shapes()) {
    INFO(shape.batch << " x " << shape.tokens << " x " << shape.size);
    const Problem p(shape);
    const auto expected = defined_norm(shape, numbers::wide(p.x), numbers::wide(p.rows));
    CHECK(relative_distance(normalised(p).out, expected) < 1e-6);
  }
}

TEST_CASE("gradients of normalisation and modulation are difference quotients") {
  for (const TokenShape& shape : {TokenShape{2, 3, 5}, {1, 1, 17}, {2, 66, 4}, {1, 2, 33}}) {
    INFO(shape.batch << " x " << shape.tokens << " x " << shape.size);
    const Problem p(shape);
    const auto x = numbers::wide(p.x), rows = numbers::wide(p.rows);
    const NormResult result = normalised(p);
    CHECK(relative_distance(result.dx, numbers::difference_quotients(x, [&](const auto& moved) {
                              return dot(defined_norm(shape, moved, rows), p.dout);
                            })) < 2e-6);
    CHECK(
        relative_distance(result.drows, numbers::difference_quotients(rows, [&](const auto& moved) {
                            return dot(defined_norm(shape, x, moved), p.dout);
                          })) < 2e-6);
    CHECK(normalised(p, false).dx == result.dx);
  }
}

TEST_CASE("a gated residual and its gradients are their formula on every size") {
  for (const TokenShape& shape : shapes()) {
    INFO(shape.batch << " x " << shape.tokens << " x " << shape.size);
    const Problem p(shape);
    std::vector<double> out, dy, drows(p.rows.size());
    for (std::int64_t i = 0; i < p.count(); ++i) {
      const std::int64_t sample = i / shape.size / shape.tokens;
      const auto at = std::size_t((sample * chunks + 2) * shape.size + i % shape.size);
      const auto k = std::size_t(i);
      out.push_back(double(p.x[k]) + double(p.rows[at]) * double(p.y[k]));
      dy.push_back(double(p.rows[at]) * double(p.dout[k]));
      drows[at] += double(p.dout[k]) * double(p.y[k]);
    }
    const GateResult result = gated(p);
    CHECK(relative_distance(result.out, out) < 1e-6);
    CHECK(relative_distance(result.dy, dy) < 1e-6);
    CHECK(relative_distance(result.drows, drows) < 1e-6);
    CHECK(gated(p, false).dy == result.dy);
  }
}

TEST_CASE("a row of equal numbers is normalised to zero") {
  Problem p({1, 2, 24});
  for (std::size_t i = 0; i < 24; ++i) p.x[i] = 3.5f;
  const NormResult result = normalised(p);
  for (std::size_t i = 0; i < 24; ++i) {
    CHECK(result.out[i] == p.rows[i]);
    CHECK(std::isfinite(result.dx[i]));
  }
}

TEST_CASE("tokens far from zero are normalised as tokens near zero") {
  Problem far({2, 3, 40});
  for (float& value : far.x) value = 4096 + std::round(64 * value) / 64;
  Problem near = far;
  for (float& value : near.x) value -= 4096;
  CHECK(relative_distance(normalised(far).out, normalised(near).out) < 1e-4);
}

TEST_CASE("what is not a number stays in its token and in sums over its sample") {
  Problem p({2, 3, 20});
  p.x[25] = std::numeric_limits<float>::quiet_NaN();
  const NormResult result = normalised(p);
  for (std::size_t i = 0; i < p.x.size(); ++i) {
    CHECK(std::isnan(result.out[i]) == (i / 20 == 1));
    CHECK(std::isnan(result.dx[i]) == (i / 20 == 1));
  }
  CHECK(std::isnan(result.drows[20]));
  CHECK(std::isfinite(result.drows[std::size_t(chunks) * 20 + 20]));
}

TEST_CASE("bits of norms and gates depend neither on threads nor on other samples") {
  const Problem p({5, 70, 37});
  const NormResult norm = normalised(p);
  const GateResult gate = gated(p);
  for (const std::int64_t threads : {2, 3, 8}) {
    const NormResult again = normalised(p, true, numbers::ThreadLoop{threads});
    CHECK(again.out == norm.out);
    CHECK(again.dx == norm.dx);
    CHECK(again.drows == norm.drows);
    const GateResult gate_again = gated(p, true, numbers::ThreadLoop{threads});
    CHECK(gate_again.out == gate.out);
    CHECK(gate_again.dy == gate.dy);
    CHECK(gate_again.drows == gate.drows);
  }
  Problem alone({1, 70, 37});
  const std::ptrdiff_t sample = 70 * 37, row = chunks * 37;
  const auto second = [](const std::vector<float>& all, std::ptrdiff_t count) {
    return std::vector<float>(all.begin() + count, all.begin() + 2 * count);
  };
  alone.x = second(p.x, sample);
  alone.y = second(p.y, sample);
  alone.dout = second(p.dout, sample);
  alone.rows = second(p.rows, row);
  CHECK(normalised(alone).out == second(norm.out, sample));
  CHECK(normalised(alone).dx == second(norm.dx, sample));
  CHECK(normalised(alone).drows == second(norm.drows, row));
  CHECK(gated(alone).out == second(gate.out, sample));
  CHECK(gated(alone).drows == second(gate.drows, row));
}
