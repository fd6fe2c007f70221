// Rewards chosen at run time: the same as those chosen at compile time.

#include <cmath>
#include <stdexcept>
#include <string>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/combination.hpp>
#include <contraflow/reward/image_batch.hpp>
#include <contraflow/reward/list.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;

namespace {

using cf::Captions;

Tensor first(const Tensor& x0) { return x0.select(1, 0); }
Tensor length(const Tensor& x0, const Captions& captions) {
  Tensor scores = at::empty({x0.size(0)});
  for (std::size_t i = 0; i < captions.size(); ++i) {
    scores[std::int64_t(i)] = double(captions[i].size());
  }
  return scores;
}
Tensor fails(const Tensor&) { throw std::runtime_error("no scores today"); }

const Captions captions{"a", "abc", "", "abcd"};

}  // namespace

TEST_CASE("a list of rewards gives what rewards(...) gives") {
  for (const auto normalisation : {cf::Normalisation::none, cf::Normalisation::standard,
                                   cf::Normalisation::min_max, cf::Normalisation::rank}) {
    const auto known = cf::rewards("first"_r = cf::weighted(first, 0.5, normalisation),
                                   "length"_r = cf::weighted(length, -2), "fails"_r = fails);
    cf::RewardList<Captions> list;
    list.add("first", first, 0.5, normalisation);
    list.add("length", length, -2);
    list.add("fails", fails);
    CHECK(list.size() == 3);
    const Tensor x0 = laws::floats({4, 3});
    const cf::ScoreSheet expected = known.score(x0, captions), got = list.score(x0, captions);
    CHECK(got.names == expected.names);
    CHECK(at::allclose(got.scores, expected.scores, 0, 0, /*equal_nan=*/true));
    CHECK(got.scores[2].isnan().all().item<bool>());
    CHECK(got.failures == expected.failures);
    CHECK(got.failures == std::vector<std::string>{"fails: no scores today"});
    const Tensor scores = laws::doubles({3, 4}, 5);
    CHECK(same_bits(list.combine(scores), known.combine(scores)));
    CHECK(same_bits(list.combine_raw(scores), known.combine_raw(scores)));
  }
}

TEST_CASE("weights count once and normalisation not where it is not wanted") {
  cf::RewardList<Captions> list;
  list.add("first", first, 3, cf::Normalisation::min_max);
  list.add("length", length);
  const Tensor scores = at::tensor({1.0, 2.0, 3.0, 10.0, 20.0, 40.0}, at::kDouble).view({2, 3});
  CHECK(same_bits(list.combine_raw(scores), at::tensor({13.0, 26.0, 49.0}, at::kDouble)));
  CHECK(same_bits(list.combine(scores), at::tensor({10.0, 21.5, 43.0}, at::kDouble)));
}

TEST_CASE("rewards of one kind have names of their own, and weights are finite") {
  cf::RewardList<Captions> list;
  for (int i = 0; i < 3; ++i) list.add(list.unused("length"), length);
  const cf::ScoreSheet sheet = list.score(at::zeros({2, 3}), {"a", "b"});
  CHECK(sheet.names == std::vector<std::string>{"length", "length-2", "length-3"});
  laws::check_error([&] { list.add("nan", length, std::nan("")); }, "weight", "finite");
}

TEST_CASE("a name is used once, and a list is a bag of rewards") {
  static_assert(cf::RewardBag<cf::RewardList<Captions>>);
  cf::RewardList<Captions> list;
  list.add("first", first);
  check_error([&] { list.add("first", length); }, "name", "got first");
  CHECK(list.size() == 1);
}

TEST_CASE("in a list, too, a reward of the wrong size ends the run, and one that throws does not") {
  cf::RewardList<Captions> list;
  list.add("fails", fails);
  list.add("one", [](const Tensor& x0) { return x0.mean(); });
  check_error([&] { list.score(laws::floats({4, 3}), captions); }, "reward one", "[4], got []");
}

TEST_CASE("a list is made for the reference of its prompts, of any type") {
  struct Goal {
    double height = 0;
  };
  cf::RewardList<std::vector<Goal>> list;
  list.add("first", first);
  list.add("height", [](const Tensor&, const std::vector<Goal>& goals) {
    return std::vector<double>{goals.at(0).height, goals.at(1).height};
  });
  const Tensor x0 = laws::floats({2, 3});
  const Tensor scores = list.score(x0, std::vector<Goal>{{0.5}, {-2}}).scores;
  CHECK(same_bits(scores[0], x0.select(1, 0).to(at::kDouble)));
  CHECK(same_bits(scores[1], at::tensor({0.5, -2.0}, at::kDouble)));
}
