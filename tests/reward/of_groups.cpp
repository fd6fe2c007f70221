// Rewards that see whole groups, and rewards that differentiate.

#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/combination.hpp>
#include <contraflow/reward/differentiable.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;
using laws::same_bits;

namespace {

Tensor longs(std::vector<std::int64_t> values) { return at::tensor(values, at::kLong); }
Tensor numbers(std::vector<double> values) { return at::tensor(values, at::kDouble); }

// The one with the larger first coordinate.
const auto larger = [](const Tensor& a, const Tensor& b) {
  return (a.select(1, 0) > b.select(1, 0)).to(at::kLong) +
         2 * (a.select(1, 0) < b.select(1, 0)).to(at::kLong);
};
// Whatever stands first.
const auto biased = [](const Tensor& a, const Tensor&) { return at::ones({a.size(0)}, at::kLong); };

// Notes what it is called with.
struct Listening {
  std::vector<std::int64_t>* sizes;
  Tensor of_group(const Tensor& x0, const std::vector<std::string>& captions) const {
    sizes->push_back(x0.size(0));
    for (const std::string& caption : captions) CHECK(caption == captions.front());
    if (x0.size(0) == 3) throw cf::Error("judge", "an answer", "silence");
    return x0.select(1, 0) - x0.select(1, 0).mean();
  }
};
static_assert(cf::GroupReward<Listening, std::vector<std::string>>);
static_assert(!cf::GroupReward<Listening>);
static_assert(!cf::Reward<Listening, std::vector<std::string>>);
static_assert(cf::GroupReward<cf::PairwiseReward<decltype(larger)>>);

}  // namespace

TEST_CASE("a win rate is wins and half of the ties over comparisons") {
  // 0 beats 1, ties with 2; 2 beats 1; 3 is never compared.
  const Tensor rate =
      cf::win_rates(longs({0, 0, 1}), longs({1, 2, 2}), longs({1, 0, 2}), 4, /*decimals=*/3);
  CHECK(same_bits(rate, numbers({0.75, 0, 0.75, 0})));
  // Half to even.
  const Tensor thirds = cf::win_rates(longs({0, 0, 0}), longs({1, 1, 1}), longs({1, 1, 2}), 2);
  CHECK(same_bits(thirds, numbers({0.667, 0.333})));
  check_error([] { cf::win_rates(longs({0}), longs({4}), longs({1}), 4); }, "second", "items");
  check_error([] { cf::win_rates(longs({0}), longs({1, 2}), longs({1}), 4); }, "second", "shape");
}

TEST_CASE("categories are averaged by weights") {
  const Tensor overall = numbers({1, 0}), categories = numbers({0.5, 0.5, 0, 1}).view({2, 2});
  const auto rates = cf::category_rates(overall, categories, 1, 3);
  CHECK(same_bits(rates.category_mean, numbers({0.25, 0.75})));
  CHECK(same_bits(rates.reward, numbers({1.75 / 4, 2.25 / 4})));
  check_error([&] { cf::category_rates(overall, categories, 0, 0); }, "overall_weight", "both 0");
}

TEST_CASE("the order of a group's samples does not matter") {
  const Tensor x0 = laws::floats({6, 2}, 1), order = laws::shuffled(6);
  const cf::PairwiseReward reward(larger);
  const Tensor rates = reward.of_group(x0).scores;
  CHECK(same_bits(reward.of_group(x0.index_select(0, order)).scores, rates.index_select(0, order)));
  CHECK(rates.argmax().item<int>() == x0.select(1, 0).argmax().item<int>());
  CHECK(rates.max().item<double>() == 1);
  CHECK(std::abs(rates.mean().item<double>() - 0.5) < 1e-12);
  CHECK(!reward.of_group(x0).abstains.defined());
  CHECK(reward.of_group(x0.narrow(0, 0, 1)).abstains.all().item<bool>());
}

TEST_CASE("judged in both orders, a place is no advantage") {
  const Tensor x0 = laws::floats({5, 2}, 1);
  CHECK(cf::PairwiseReward(biased).of_group(x0).scores[0].item<double>() == 1);
  const Tensor rates = cf::PairwiseReward(biased, {.both_orders = true}).of_group(x0).scores;
  CHECK(same_bits(rates, at::full_like(rates, 0.5)));
  const auto silent = [](const Tensor&, const Tensor&) { return longs({1}); };
  check_error([&] { cf::PairwiseReward(silent).of_group(x0); }, "judge", "one answer a pair");
}

TEST_CASE("ranks know no scale, and ties share theirs") {
  CHECK(same_bits(cf::rank_rewards(numbers({3, -1, 100})), numbers({1.0 / 3, 0, 2.0 / 3})));
  CHECK(same_bits(cf::rank_rewards(numbers({2, 1, 2, 5})), numbers({0.375, 0, 0.375, 0.75})));
  const auto first = [](const Tensor& x0) { return x0.select(1, 0); };
  const Tensor x0 = numbers({0, 5, 9, 7}).view({2, 2});
  CHECK(same_bits(cf::RankReward(first).of_group(x0).scores, numbers({0, 0.5})));
}

TEST_CASE("ranks are among those from which the reward does not abstain") {
  const auto small = [](const Tensor& x0) {
    return cf::PartialScores{x0.select(1, 0), x0.select(1, 0) > 10};
  };
  const Tensor x0 = numbers({4, 20, 1, 2}).view({4, 1});
  const auto bag = cf::rewards("rank"_r = cf::RankReward(small));
  cf::ScoreSheet sheet = bag.score(x0, cf::Unconditional{});
  bag.score_groups(sheet, x0, cf::Unconditional{}, longs({3, 3, 3, 3}));
  CHECK(at::equal(sheet.abstained[0], longs({0, 1, 0, 0}).to(at::kBool)));
  const Tensor there = longs({0, 2, 3});
  CHECK(same_bits(sheet.scores[0].index_select(0, there), numbers({2.0 / 3, 0, 1.0 / 3})));
}

TEST_CASE("a bag calls a reward of groups once a group, behind the others") {
  std::vector<std::int64_t> sizes;
  const auto bag = cf::rewards(
      "first"_r = [](const Tensor& x0) { return x0.select(1, 0); },
      "listening"_r = cf::weighted(Listening{&sizes}, 2));
  const Tensor x0 = laws::floats({7, 2}, 1), group = longs({4, 9, 4, 9, 4, 9, 9});
  const std::vector<std::string> captions{"a", "b", "a", "b", "a", "b", "b"};
  cf::ScoreSheet sheet = bag.score(x0, captions);
  CHECK(sheet.names == std::vector<std::string>{"first", "listening"});
  CHECK(sizes.empty());
  CHECK(sheet.abstained[1].all().item<bool>());  // where there are no groups
  bag.score_groups(sheet, x0, captions, group);
  CHECK(sizes == std::vector<std::int64_t>{3, 4});
  // It failed on the group of three, and on that alone.
  CHECK(sheet.failures.size() == 1);
  CHECK(at::equal(sheet.scores[1].isfinite(), group == 9));
  CHECK(!sheet.abstained[1].any().item<bool>());
  const Tensor own = (group == 9).nonzero().flatten();
  const Tensor mine = x0.select(1, 0).index_select(0, own);
  CHECK(relative_distance(sheet.scores[1].index_select(0, own), mine - mine.mean()) < 1e-6);
}

TEST_CASE("the components of a bag add up to its combination where nothing is missing") {
  const auto bag = cf::rewards(
      "a"_r = cf::weighted([](const Tensor& x) { return x; }, 0.5, cf::Normalisation::standard),
      "b"_r = cf::weighted([](const Tensor& x) { return x; }, -2));
  Tensor scores = laws::doubles({2, 6}, 1);
  const Tensor group = longs({0, 0, 0, 1, 1, 1});
  const auto sum = [](const cf::RewardComponents& c) {
    return (c.weights.unsqueeze(1) * c.values).sum(0);
  };
  CHECK(relative_distance(sum(bag.components(scores, group)), bag.combine(scores, group)) < 1e-12);
  // A failure counts as the worst of its group, the greatest of a penalty; abstentions stay.
  scores[1][0] = -std::numeric_limits<double>::infinity();
  scores[0][5] = std::nan("");
  const cf::RewardComponents c = bag.components(scores, group);
  CHECK(c.values[1][0].item<double>() == scores[1].slice(0, 1, 3).max().item<double>());
  CHECK(c.values[0][5].isnan().item<bool>());
  CHECK(c.values.isnan().sum().item<int>() == 1);
}

TEST_CASE("what differentiates says so, and is held to it") {
  const auto square = [](const Tensor& x0) { return x0.square().mean(1); };
  static_assert(cf::Reward<decltype(square)>);
  static_assert(!cf::DifferentiableReward<decltype(square)>);
  static_assert(cf::DifferentiableReward<cf::Differentiable<decltype(square)>>);
  const auto as_vector = [](const Tensor&) { return std::vector<double>{1}; };
  static_assert(!cf::DifferentiableReward<cf::Differentiable<decltype(as_vector)>>);
  const Tensor x0 = laws::floats({3, 2}, 1).requires_grad_();
  const cf::Unconditional nothing;
  const Tensor scores = cf::differentiable_scores(cf::differentiable(square), x0, nothing);
  scores.sum().backward();
  CHECK(relative_distance(x0.grad(), x0.detach()) < 1e-6);
  const auto detached = cf::differentiable([](const Tensor& x) { return x.detach().mean(1); });
  check_error([&] { cf::differentiable_scores(detached, x0, nothing); }, "reward", "gradient");
  const Tensor reward = numbers({0.2, 0.9});
  CHECK(same_bits(cf::reward_loss(reward, 0.5, 2), numbers({0.6, 0})));
  CHECK(same_bits(cf::reward_loss(reward, std::nullopt, 2), numbers({-0.4, -1.8})));
  check_error([&] { cf::reward_loss(reward, 0.5, 0); }, "scale", "above 0");
}
