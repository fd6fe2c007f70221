// The random numbers themselves: known answers, accuracy, distribution, independence.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/core/random.hpp>
#include <contraflow/core/tensor.hpp>

#include "laws/compare.hpp"

namespace cf = contraflow;
namespace philox = contraflow::philox;
using cf::Tensor;

namespace {

std::array<std::uint32_t, 4> block(std::uint64_t key, std::uint64_t name, std::uint32_t draw,
                                   std::uint32_t number) {
  const philox::Block found = philox::block_of({key, draw, nullptr}, name, number);
  return {found.words[0], found.words[1], found.words[2], found.words[3]};
}

struct Serial {
  template <class Body>
  void operator()(std::int64_t count, Body&& body) const {
    if (count > 0) body(std::int64_t{0}, count);
  }
};

// In packs, and one block after another by Random123.
template <class Distribution>
bool packs_agree(std::int64_t rows, std::int64_t columns, const philox::Draw& draw) {
  const auto count = static_cast<std::size_t>(rows * columns) + 1;
  std::vector<float> packs(count, -7), blocks(count, -7);
  philox::fill_rows<Distribution>(draw, rows, columns, philox::Written{packs.data()}, Serial{});
  for (std::int64_t i = 0; i < rows * philox::blocks_of(columns); ++i) {
    philox::fill_block<Distribution>(draw, i, columns, philox::Written{blocks.data()});
  }
  return std::memcmp(packs.data(), blocks.data(), count * sizeof(float)) == 0;
}

double tail_beyond(double sigma) { return std::erfc(sigma / std::sqrt(2.0)); }

double correlation(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(at::kDouble).flatten(), y = b.to(at::kDouble).flatten();
  return ((x - x.mean()) * (y - y.mean())).mean().item<double>() /
         (x.std() * y.std()).item<double>();
}

// Largest distance of the distribution of a sample from another.
template <class Distribution>
double distance_from(const Tensor& sample, const Distribution& probability_below) {
  const Tensor sorted = std::get<0>(sample.flatten().sort());
  const auto* value = cf::data_of<const float>(sorted);
  const auto count = static_cast<double>(sorted.numel());
  double worst = 0;
  for (std::int64_t i = 0; i < sorted.numel(); ++i) {
    const double below = probability_below(double{value[i]});
    worst = std::max({worst, below - double(i) / count, double(i + 1) / count - below});
  }
  return worst;
}

}  // namespace

// Salmon and others' known answers (kat_vectors of Random123): counter, key, result.
TEST_CASE("the block function is Philox4x32-10", "[random]") {
  CHECK(block(0, 0, 0, 0) ==
        std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(block(~0ULL, ~0ULL, ~0U, ~0U) ==
        std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(block(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3, 0x243f6a88) ==
        std::array<std::uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a pack of blocks is what Random123 makes of each", "[random]") {
  std::vector<std::int64_t> names;
  for (std::int64_t i = 0; i < 70; ++i) names.push_back(i * 7919000057 - 70000);
  const philox::Draw named{0x123456789abcdef0, 3, names.data()}, counted{~0ULL, ~0U, nullptr};
  for (const std::int64_t rows : {1, 2, 3, 5, 17, 33, 70}) {
    for (const std::int64_t columns : {1, 2, 3, 4, 5, 8, 31, 32, 63, 64, 65, 100, 128, 200, 257}) {
      CHECK(packs_agree<philox::NormalNumbers>(rows, columns, named));
      CHECK(packs_agree<philox::NormalNumbers>(rows, columns, counted));
      CHECK(packs_agree<philox::UniformNumbers>(rows, columns, named));
    }
  }
}

TEST_CASE("normal numbers are those of Box and Muller to a few units in the last place",
          "[random]") {
  double worst = 0;
  for (std::uint64_t i = 0; i < 200000; ++i) {
    const auto bits = block(1, i, 0, 0);
    const auto pair = philox::normal_pair<philox::Numbers>(bits[0], bits[1]);
    const float u = static_cast<float>(bits[0] >> 1U) * 0x1p-31f + 0x1p-32f;
    const double r = std::sqrt(-2 * std::log(double{u}));
    const double angle = double{static_cast<float>(std::int32_t(bits[1] << 2U))} * M_PI * 0x1p-33;
    const double side = (bits[1] >> 30U & 1U) != 0 ? -std::cos(angle) : std::cos(angle);
    const bool swapped = bits[1] >> 31U != 0;
    const double first = r * (swapped ? std::sin(angle) : side);
    const double second = r * (swapped ? side : std::sin(angle));
    if (first != 0) worst = std::max(worst, std::abs(double{pair.first} / first - 1));
    if (second != 0) worst = std::max(worst, std::abs(double{pair.second} / second - 1));
  }
  CHECK(worst < 6 * 0x1p-24);
  CHECK(worst > 0);
}

TEST_CASE("the ends of the words give numbers", "[random]") {
  const auto normal = [](std::uint32_t a, std::uint32_t b) {
    return philox::normal_pair<philox::Numbers>(a, b);
  };
  CHECK(std::abs(normal(0, 0).first - std::sqrt(64 * std::log(2.0))) < 1e-5);
  CHECK(normal(~0U, 0).first == 0);
  for (const std::uint32_t a : {0U, 1U, 0x7fffffffU, 0x80000000U, ~0U}) {
    for (const std::uint32_t b : {0U, 1U, 0x1fffffffU, 0x20000000U, 0x3fffffffU, 0x40000000U,
                                  0x7fffffffU, 0x80000000U, 0xc0000000U, ~0U}) {
      CHECK(std::isfinite(normal(a, b).first));
      CHECK(std::isfinite(normal(a, b).second));
    }
  }
  CHECK(philox::unit_uniform<philox::Numbers>(0) == 0);
  CHECK(philox::unit_uniform<philox::Numbers>(~0U) == 1 - 0x1p-24f);
}

TEST_CASE("moments and tails of normal numbers are Gaussian", "[random]") {
  cf::Generator generator = cf::seeded(11);
  constexpr int draws = 40;
  constexpr double count = 1e6 * draws;
  std::array<double, 4> moments{};
  std::array<double, 3> beyond{};
  for (int i = 0; i < draws; ++i) {
    const Tensor drawn = cf::normal({1000, 1000}, generator);
    const Tensor x = drawn.flatten().to(at::kDouble), square = x * x;
    const std::array<Tensor, 4> powers{x, square, square * x, square * square};
    for (std::size_t k = 0; k < 4; ++k) moments[k] += powers[k].mean().item<double>() / draws;
    for (std::size_t k = 0; k < 3; ++k) {
      beyond[k] += (drawn.abs() > 3 + double(k)).sum().item<double>();
    }
  }
  const std::array<double, 4> expected{0, 1, 0, 3}, variance{1, 2, 15, 96};
  for (std::size_t k = 0; k < 4; ++k) {
    CHECK(std::abs(moments[k] - expected[k]) < 5 * std::sqrt(variance[k] / count));
  }
  for (std::size_t k = 0; k < 3; ++k) {
    const double wanted = count * tail_beyond(3 + double(k));
    CHECK(std::abs(beyond[k] - wanted) < 5 * std::sqrt(wanted));
  }
}

TEST_CASE("the distribution is the one it should be everywhere", "[random]") {
  cf::Generator generator = cf::seeded(12);
  // By Kolmogorov and Smirnov, once in a thousand beyond.
  constexpr double allowed = 1.95e-3;
  const auto gaussian = [](double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; };
  const auto flat = [](double x) { return x; };
  CHECK(distance_from(cf::normal({1000, 1000}, generator), gaussian) < allowed);
  CHECK(distance_from(cf::normal({500000, 2}, generator), gaussian) < allowed);
  CHECK(distance_from(cf::normal({1000000}, generator), gaussian) < allowed);
  const Tensor u = cf::uniform({1000, 1000}, generator);
  CHECK(distance_from(u, flat) < allowed);
  CHECK(u.min().item<double>() >= 0);
  CHECK(u.max().item<double>() < 1);
}

TEST_CASE("what is drawn apart is uncorrelated", "[random]") {
  const cf::Generator run = cf::seeded(0);
  const auto drawn = [](cf::Generator generator) { return cf::normal({1000, 100}, generator); };
  cf::Generator twice = run;
  cf::normal({1}, twice);
  const Tensor names = at::arange(1000, at::kLong);
  const std::vector<Tensor> apart{
      drawn(run),
      drawn(twice),
      drawn(cf::seeded(1)),
      drawn(run.stream(0)),
      drawn(run.stream(1)),
      drawn(run.stream(cf::Purpose::noise)),
      drawn(run.stream(cf::Purpose::solver)),
      drawn(run.stream(cf::Purpose::solver, 1)),
      drawn(run.rows(names + 1000)),
      drawn(run.rows(names + (1LL << 32U))),
      drawn(run.rows(-1 - names)),
  };
  // Five standard errors for some 150 numbers with a fixed seed.
  const double allowed = 5 / std::sqrt(1e5);
  for (std::size_t i = 0; i < apart.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      CHECK(std::abs(correlation(apart[i], apart[j])) < allowed);
      CHECK(std::abs(correlation(apart[i].square(), apart[j].square())) < allowed);
    }
  }
}

TEST_CASE("neighbours are uncorrelated: columns, rows, and the two of a pair", "[random]") {
  cf::Generator generator = cf::seeded(3);
  const Tensor x = cf::normal({2000, 200}, generator);
  const double allowed = 5 / std::sqrt(3.8e5);
  for (const std::int64_t lag : {1, 2, 3, 4, 8, 16, 64}) {
    const Tensor columns = x.narrow(1, 0, 200 - lag), right = x.narrow(1, lag, 200 - lag);
    const Tensor rows = x.narrow(0, 0, 2000 - lag), below = x.narrow(0, lag, 2000 - lag);
    CHECK(std::abs(correlation(columns, right)) < 1.3 * allowed);
    CHECK(std::abs(correlation(rows, below)) < allowed);
    CHECK(std::abs(correlation(columns.square(), right.square())) < 1.3 * allowed);
    CHECK(std::abs(correlation(rows.square(), below.square())) < allowed);
  }
}
