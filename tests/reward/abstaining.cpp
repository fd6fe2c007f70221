// Rewards that abstain from samples, and failures that count as the worst of their group.

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/list.hpp>
#include <contraflow/reward/records.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "laws/reward.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using cf::Normalisation;
using cf::PartialScores;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;
using laws::same_bits;

namespace {

constexpr cf::Unconditional none;
const double no_score = std::nan("");
const double failed = -std::numeric_limits<double>::infinity();

using Bag = cf::RewardList<cf::Unconditional>;

Tensor row(std::vector<double> values) { return at::tensor(values, at::kDouble); }
Tensor flags(std::vector<int> values) { return at::tensor(values).to(at::kBool); }
Tensor first(const Tensor& x0) { return x0.select(1, 0); }

// Abstains where the first coordinate is below 0, and fails where it is above 1.
PartialScores on_some(const Tensor& x0) {
  const Tensor x = first(x0);
  return {x.masked_fill(x > 1, no_score), x < 0};
}
std::vector<std::optional<double>> numbers_or_nothing(const Tensor& x0) {
  std::vector<std::optional<double>> scores;
  for (std::int64_t i = 0; i < x0.size(0); ++i) {
    const double x = x0[i][0].item<double>();
    scores.push_back(x < 0 ? std::nullopt : std::optional(x > 1 ? no_score : x));
  }
  return scores;
}

// Two rewards: of weight 1 as they are, and of another weight and normalisation.
Bag bag_of(double weight, Normalisation normalisation = Normalisation::none) {
  Bag bag;
  bag.add("a", first);
  bag.add("b", on_some, weight, normalisation);
  return bag;
}

const Tensor group = at::tensor({4, 4, 4, 1, 1}, at::kLong);
const Tensor a = row({1, 2, 3, 4, 5});

}  // namespace

TEST_CASE("a reward abstains by what it returns, and a score of NaN is no abstention") {
  const Tensor x0 = at::tensor({0.5F, -1.0F, 2.0F, 0.25F}).view({4, 1});
  const auto known = cf::rewards("a"_r = first, "b"_r = on_some, "c"_r = numbers_or_nothing);
  cf::RewardList<cf::Unconditional> list;
  list.add("a", first);
  list.add("b", on_some);
  list.add("c", numbers_or_nothing);
  for (const cf::ScoreSheet& sheet : {known.score(x0, none), list.score(x0, none)}) {
    CHECK(sheet.failures.empty());
    REQUIRE(sheet.abstained.defined());
    CHECK(at::equal(sheet.abstained[0], flags({0, 0, 0, 0})));
    for (const int reward : {1, 2}) {
      CHECK(at::equal(sheet.abstained[reward], flags({0, 1, 0, 0})));
      CHECK(at::allclose(sheet.scores[reward], row({0.5, no_score, no_score, 0.25}), 0, 0,
                         /*equal_nan=*/true));
    }
  }
  CHECK(at::allclose(cf::scores_of(on_some, x0, none), row({0.5, no_score, no_score, 0.25}), 0, 0,
                     /*equal_nan=*/true));
  CHECK_FALSE(cf::as_rewards(first).score(x0, none).abstained.defined());
  laws::reward(on_some, laws::floats({9, 2}));
  laws::reward(numbers_or_nothing, laws::floats({9, 2}));
}

TEST_CASE("what passes a reward on passes its abstentions on") {
  const auto says_something = [](const Tensor& x0, const cf::Captions& captions) {
    std::vector<std::optional<double>> scores(static_cast<std::size_t>(x0.size(0)));
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (!captions[i].empty()) scores[i] = double(captions[i].size());
    }
    return scores;
  };
  cf::RewardList<cf::Records> list;
  list.add("length", cf::OnCaptions(says_something));
  const cf::ScoreSheet sheet =
      list.score(at::zeros({2, 3}), {{{"prompt", ""}}, {{"prompt", "abc"}}});
  CHECK(at::equal(sheet.abstained[0], flags({1, 0})));
  CHECK(sheet.scores[0][1].item<double>() == 3);
}

TEST_CASE("where a reward abstains its mean stands in: of the group, else of all") {
  const Tensor b = row({10, no_score, 30, no_score, no_score});
  const Tensor scores = at::stack({a, b});
  CHECK(same_bits(bag_of(2).combine(scores, group), row({21, 42, 63, 44, 45})));
  // One group, where no other is told.
  CHECK(same_bits(bag_of(2).combine(scores), row({21, 42, 63, 44, 45})));
  CHECK(same_bits(bag_of(2).combine_raw(scores), row({21, 42, 63, 44, 45})));
  // The mean of each group.
  const Tensor both = at::stack({a, row({10, no_score, 30, 7, no_score})});
  CHECK(same_bits(bag_of(1).combine(both, group), row({11, 22, 33, 11, 12})));
  CHECK(relative_distance(bag_of(1).combine_raw(both),
                          row({11, 2 + 47.0 / 3, 33, 11, 5 + 47.0 / 3})) < 1e-15);
  // A reward of which nobody has heard counts nothing.
  const Tensor nothing = at::stack({a, at::full({5}, no_score, at::kDouble)});
  CHECK(same_bits(bag_of(3).combine(nothing, group), a));
  CHECK(same_bits(bag_of(3, Normalisation::standard).combine(nothing, group), a));
}

TEST_CASE("an abstaining reward neither raises nor lowers a sample within its group") {
  for (const auto normalisation : {Normalisation::none, Normalisation::standard,
                                   Normalisation::min_max, Normalisation::rank}) {
    Bag bag;
    bag.add("b", on_some, -3, normalisation);
    const Tensor b = row({0.1, no_score, 0.7, 0.1, -2});
    const Tensor sum = bag.combine(b.unsqueeze(0), group);
    const Tensor centred = sum.slice(0, 0, 3) - sum.slice(0, 0, 3).mean();
    CHECK(std::abs(centred[1].item<double>()) < 1e-15);
    CHECK(centred[0].item<double>() > 0.1);  // the worst of a penalty is the best
    // The others are normalised as if it were not there.
    const Tensor others = at::tensor({0, 2, 3, 4}, at::kLong);
    const Tensor alone =
        bag.combine(b.index_select(0, others).unsqueeze(0), group.index_select(0, others));
    CHECK(same_bits(sum.index_select(0, others), alone));
  }
}

TEST_CASE("a group of equal scores stays one of equal rewards when a reward abstains") {
  for (const int others : {1, 3, 6, 7, 10, 23}) {
    std::vector<double> values(static_cast<std::size_t>(others), 0.1);
    values.push_back(no_score);
    Bag bag;
    bag.add("b", on_some);
    const Tensor sum = bag.combine(row(values).unsqueeze(0));
    INFO(others);
    CHECK((sum == 0.1).all().item<bool>());
  }
}

TEST_CASE("a failed score counts as the worst that the reward gave within the group") {
  const Tensor b = row({10, failed, 30, failed, 7});
  const Tensor scores = at::stack({a, b});
  CHECK(same_bits(bag_of(2).combine(scores, group), row({21, 22, 63, 18, 19})));
  // The worst of a penalty is the greatest.
  CHECK(same_bits(bag_of(-1).combine(scores, group), row({-9, -28, -27, -3, -2})));
  // Normalised over the scores that there are: 7, 10, 30.
  CHECK(same_bits(bag_of(1, Normalisation::rank).combine(scores, group), row({1.5, 2.5, 4, 4, 5})));
  CHECK(same_bits(bag_of(-1, Normalisation::rank).combine(scores, group), row({0.5, 1, 2, 4, 5})));
  // Beside one that abstains: the mean is of what counts, 10, 10 and 40.
  const Tensor four = at::stack({row({0, 0, 0, 0}), row({10, failed, no_score, 40})});
  CHECK(same_bits(bag_of(1).combine(four), row({10, 10, 20, 40})));
}

TEST_CASE("numbers too large to be normalised are not taken for missing ones") {
  const Tensor b = row({1e308, -1e308, no_score, 1e308, 1e308});
  const Tensor sum = bag_of(1, Normalisation::standard).combine(at::stack({a, b}), group);
  CHECK_FALSE(sum.isfinite().all().item<bool>());  // which an Advantage refuses
}

TEST_CASE("the order of samples and the numbers of groups mean nothing to what stands in") {
  const Tensor b = row({10, failed, no_score, no_score, 7});
  const Tensor scores = at::stack({a, b});
  const Tensor sum = bag_of(2).combine(scores, group);
  const Tensor order = at::tensor({3, 1, 4, 0, 2}, at::kLong);
  CHECK(
      same_bits(bag_of(2).combine(scores.index_select(1, order), group.index_select(0, order) * -7),
                sum.index_select(0, order)));
}

TEST_CASE("a sign of abstention that is none is a broken contract") {
  const Tensor x0 = laws::floats({3, 2});
  const auto with = [&](const Tensor& abstains) {
    const auto reward = [abstains](const Tensor& x) { return PartialScores{first(x), abstains}; };
    return [=] { cf::rewards("odd"_r = reward).score(x0, none); };
  };
  check_error(with(flags({0, 1})), "reward odd", "where it abstains as bool, shape [3]");
  check_error(with(at::ones({3})), "reward odd", "where it abstains as bool");
  CHECK_NOTHROW(with(Tensor())());
  CHECK_NOTHROW(with(flags({1, 1, 1}))());
  const auto few = [](const Tensor&) { return PartialScores{at::zeros({2}), {}}; };
  check_error([&] { cf::rewards("odd"_r = few).score(x0, none); }, "reward odd", "one score a");
  const auto no_number = [](const Tensor& x) { return at::complex(first(x), first(x)); };
  check_error([&] { cf::rewards("odd"_r = no_number).score(x0, none); }, "reward odd",
              "real scores");
}

TEST_CASE("whatever a reward throws is a failure") {
  const auto reward = [](const Tensor&) -> PartialScores { throw 7; };
  const auto bag = cf::rewards("odd"_r = reward, "fine"_r = first);
  const cf::ScoreSheet sheet = bag.score(laws::floats({3, 2}), none);
  REQUIRE(sheet.failures.size() == 1);
  CHECK(sheet.failures[0] == "odd: something that is no std::exception was thrown");
  CHECK(sheet.scores[0].isnan().all().item<bool>());
  CHECK_FALSE(sheet.abstained.any().item<bool>());
}
