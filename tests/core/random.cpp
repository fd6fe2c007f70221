// Random numbers belong to names: what a number depends on, and what it does not.

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include <ATen/Parallel.h>
#include <catch2/catch_test_macros.hpp>

#include <contraflow/core/random.hpp>
#include <contraflow/core/tensor.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;

namespace {

using Shape = std::vector<std::int64_t>;

// Names that use both of their words.
Tensor some_names(std::int64_t count) {
  return at::arange(count, at::kLong) * 7919000057 - 1000 * count;
}

// The draws that are made of a shape, each from a generator of the same state.
std::vector<Tensor> draws_of(const cf::Generator& generator, const Shape& shape) {
  std::vector<cf::Generator> same(4, generator);
  return {cf::normal(shape, same[0]), cf::uniform(shape, same[1]),
          cf::integers(1000, shape[0], same[2]),
          cf::normal_like(at::zeros(shape, at::kDouble), same[3])};
}

// Sets torch's threads for as long as it lives.
class Threads {
 public:
  explicit Threads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() { at::set_num_threads(before_); }

 private:
  int before_;
};

}  // namespace

TEST_CASE("rows keep their numbers in any order, in any part of a batch", "[random]") {
  const Tensor names = some_names(37);
  const cf::Generator generator = cf::seeded(3);
  const Tensor chosen = at::tensor({30, 2, 2, 36, 0, 11}, at::kLong);
  for (const Shape& tail : {Shape{}, {1}, {2}, {3}, {4}, {7}, {16}, {50}, {64}, {2, 3, 5}, {300}}) {
    Shape shape{37}, fewer{6};
    shape.insert(shape.end(), tail.begin(), tail.end());
    fewer.insert(fewer.end(), tail.begin(), tail.end());
    const auto all = draws_of(generator.rows(names), shape);
    const auto some = draws_of(generator.rows(names.index_select(0, chosen)), fewer);
    for (std::size_t i = 0; i < all.size(); ++i) {
      CHECK(same_bits(all[i].index_select(0, chosen), some[i]));
    }
  }
}

TEST_CASE("without names row i is named i", "[random]") {
  const cf::Generator generator = cf::seeded(3);
  const auto plain = draws_of(generator, {20, 3});
  const auto named = draws_of(generator.rows(at::arange(20, at::kLong)), {20, 3});
  for (std::size_t i = 0; i < plain.size(); ++i) CHECK(same_bits(plain[i], named[i]));
}

TEST_CASE("a column has its number in rows of any length", "[random]") {
  for (const std::int64_t columns : {1, 2, 3, 5, 8, 63, 64, 65, 200}) {
    cf::Generator one = cf::seeded(4), two = cf::seeded(4);
    const Tensor wide = cf::normal({9, 300}, one);
    CHECK(same_bits(cf::normal({9, columns}, two), wide.narrow(1, 0, columns).contiguous()));
  }
}

TEST_CASE("the number of threads does not matter", "[random]") {
  const auto draw = [](int threads, const Shape& shape) {
    const Threads guard(threads);
    return draws_of(cf::seeded(8), shape);
  };
  for (const Shape& shape : {Shape{100000, 2}, {1, 300001}, {64, 5000}}) {
    const auto one = draw(1, shape), two = draw(2, shape);
    for (std::size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], two[i]));
  }
}

TEST_CASE("shape and dtype do not matter", "[random]") {
  cf::Generator a = cf::seeded(1), b = cf::seeded(1), c = cf::seeded(1), d = cf::seeded(1);
  const Tensor plain = cf::normal({50, 2, 3}, a);
  CHECK(same_bits(cf::normal({50, 6}, b), plain.view({50, 6})));
  CHECK(same_bits(cf::normal({50, 2, 3}, c, at::kDouble), plain.to(at::kDouble)));
  CHECK(same_bits(cf::normal_like(at::zeros({50, 2, 3}, at::kHalf), d), plain.to(at::kHalf)));
}

TEST_CASE("each draw is another, and a copy goes on by itself", "[random]") {
  cf::Generator generator = cf::seeded(5);
  const Tensor first = cf::normal({10, 3}, generator);
  cf::Generator copy = generator;
  const Tensor second = cf::normal({10, 3}, generator);
  CHECK_FALSE(at::equal(first, second));
  CHECK(same_bits(cf::normal({10, 3}, copy), second));
  CHECK(generator.draws() == 2);
  // Everything that draws counts one.
  cf::permutation(3, generator);
  cf::integers(3, 4, generator);
  cf::uniform({0, 3}, generator);
  cf::torch_generator(generator);
  CHECK(generator.draws() == 6);
  // Streams and names begin with the first draw.
  CHECK(generator.stream(1).draws() == 0);
  cf::Generator again = generator.rows(at::arange(10, at::kLong));
  CHECK(same_bits(cf::normal({10, 3}, again), first));
}

TEST_CASE("a generator is its key", "[random]") {
  const cf::Generator generator = cf::seeded(5);
  cf::Generator one = generator, two(generator.key());
  CHECK(same_bits(cf::normal({5}, one), cf::normal({5}, two)));
  CHECK(cf::seeded(5).key() != cf::seeded(6).key());
  CHECK(generator.stream(cf::Purpose::noise, 3).key() ==
        generator.stream(std::uint64_t(cf::Purpose::noise)).stream(3).key());
}

TEST_CASE("shapes may be empty or have no dimension", "[random]") {
  cf::Generator generator = cf::seeded(0);
  CHECK(cf::normal({0, 4}, generator).sizes() == at::IntArrayRef({0, 4}));
  CHECK(cf::normal({4, 0}, generator).sizes() == at::IntArrayRef({4, 0}));
  CHECK(cf::uniform({}, generator).dim() == 0);
  CHECK(cf::permutation(0, generator).numel() == 0);
  CHECK(cf::integers(5, 0, generator).numel() == 0);
  cf::Generator nobody = cf::seeded(0).rows(at::empty({0}, at::kLong));
  CHECK(cf::normal({0, 4}, nobody).numel() == 0);
}

TEST_CASE("names are read at once, from any layout", "[random]") {
  const Tensor table = some_names(40).view({20, 2});
  Tensor column = table.select(1, 1);
  cf::Generator one = cf::seeded(0).rows(column);
  cf::Generator two = cf::seeded(0).rows(column.contiguous());
  column.zero_();
  CHECK(same_bits(cf::normal({20, 3}, one), cf::normal({20, 3}, two)));
}

TEST_CASE("rows without a name, and names that are none, are refused", "[random]") {
  cf::Generator generator = cf::seeded(0).rows(some_names(4));
  check_error([&] { cf::normal({5, 2}, generator); }, "shape", "a row for each of 4 names, got 5");
  check_error([&] { cf::uniform({3}, generator); }, "shape", "got 3 rows");
  check_error([&] { cf::uniform({}, generator); }, "shape", "got 1 rows");
  check_error([&] { cf::permutation(5, generator); }, "shape", "got 5 rows");
  check_error([&] { cf::integers(9, 5, generator); }, "shape", "got 5 rows");
  CHECK(generator.draws() == 0);
  const auto name = [&](const Tensor& names) { return [=] { cf::seeded(0).rows(names); }; };
  check_error(name(Tensor()), "names", "got nothing");
  check_error(name(at::zeros({2, 2}, at::kLong)), "names", "[2, 2]");
  check_error(name(at::zeros({2})), "names", "dtype Long, got Float");
  check_error([&] { cf::integers(0, 4, generator); }, "limit", "at least 1, got 0");
  check_error([&] { cf::permutation(-1, generator); }, "count", "at least 0, got -1");
}

TEST_CASE("a permutation is one, and its order belongs to names", "[random]") {
  cf::Generator generator = cf::seeded(0);
  const Tensor order = cf::permutation(1000, generator);
  CHECK(order.scalar_type() == at::kLong);
  CHECK(at::equal(std::get<0>(order.sort()), at::arange(1000)));
  CHECK_FALSE(at::equal(order, at::arange(1000)));

  const Tensor names = some_names(100), shuffled = names.flip(0);
  cf::Generator one = cf::seeded(2).rows(names), two = cf::seeded(2).rows(shuffled);
  CHECK(at::equal(names.index_select(0, cf::permutation(100, one)),
                  shuffled.index_select(0, cf::permutation(100, two))));
}

TEST_CASE("every permutation is as likely as another", "[random]") {
  cf::Generator generator = cf::seeded(1);
  constexpr int draws = 24000;
  std::vector<int> seen(64);
  for (int i = 0; i < draws; ++i) {
    const Tensor order = cf::permutation(4, generator);
    const auto* at = cf::data_of<const std::int64_t>(order);
    ++seen[static_cast<std::size_t>(at[0] * 16 + at[1] * 4 + at[2])];
  }
  int orders = 0;
  double chi = 0;
  for (const int count : seen) {
    if (count == 0) continue;
    ++orders;
    chi += (count - 1000.0) * (count - 1000.0) / 1000;
  }
  CHECK(orders == 24);
  CHECK(chi < 50);  // 23 degrees of freedom: one in a thousand
}

TEST_CASE("integers are unbiased, for limits of any size", "[random]") {
  cf::Generator generator = cf::seeded(1);
  const Tensor small = cf::integers(7, 70000, generator);
  const Tensor counts = small.bincount().to(at::kDouble);
  CHECK(counts.numel() == 7);
  CHECK(((counts - 10000).square() / 10000).sum().item<double>() < 22.5);  // one in a thousand
  CHECK(cf::integers(1, 100, generator).max().item<std::int64_t>() == 0);
  // Three quarters of the largest range: of a remainder the lower third would come twice as often.
  constexpr std::int64_t limit = 3LL << 61U;
  const Tensor large = cf::integers(limit, 20000, generator);
  CHECK(large.min().item<std::int64_t>() >= 0);
  CHECK(large.max().item<std::int64_t>() < limit);
  CHECK(std::abs((large < limit / 3).sum().item<int>() - 20000.0 / 3) < 5 * 66.7);
}

TEST_CASE("functions of LibTorch draw from a generator that a draw seeds", "[random]") {
  cf::Generator one = cf::seeded(1), two = cf::seeded(1);
  const auto draw = [](cf::Generator& generator) {
    at::Generator torch = cf::torch_generator(generator);
    return at::randn({10}, torch);
  };
  const Tensor first = draw(one);
  CHECK(same_bits(first, draw(two)));
  CHECK_FALSE(at::equal(first, draw(one)));
}

TEST_CASE("no two streams of a run are one", "[random]") {
  std::vector<std::uint64_t> keys;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const cf::Generator run = cf::seeded(seed);
    keys.push_back(run.key());
    for (std::uint64_t number = 0; number < 40; ++number) {
      keys.push_back(run.stream(number).key());
      for (auto purpose = cf::Purpose::prompts; purpose <= cf::Purpose::sample;
           purpose = cf::Purpose(std::uint64_t(purpose) + 1)) {
        keys.push_back(run.stream(purpose, number).key());
        keys.push_back(run.stream(number).stream(purpose).key());
      }
    }
  }
  std::sort(keys.begin(), keys.end());
  CHECK(std::adjacent_find(keys.begin(), keys.end()) == keys.end());
}
