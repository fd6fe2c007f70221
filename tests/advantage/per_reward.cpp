// Advantages of several rewards, of steps, and of groups with missing scores.

#include <cmath>
#include <limits>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/advantage/by_step.hpp>
#include <contraflow/advantage/missing_scores.hpp>
#include <contraflow/advantage/per_reward.hpp>

#include "laws/advantage.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

const Tensor group = at::tensor({0, 0, 0, 0, 1, 1, 1, 1}, at::kLong);
const Tensor weights = at::tensor({1.0, 0.5}, at::kDouble);

Tensor two_rewards() { return laws::doubles({2, 8}, 3); }

}  // namespace

TEST_CASE("advantages by each reward are advantages") {
  laws::advantage(cf::Gdpo{});
  laws::advantage(cf::PerReward<cf::RankAdvantage>{});
  laws::advantage(cf::PerReward<cf::LeaveOneOut>{.batch_spread = cf::BatchSpread::none});
  laws::advantage(
      cf::GroupAdvantage{.spread = cf::Spread::group, .guard = cf::Guard::floor, .unbiased = true});
  laws::advantage(cf::GroupAdvantage{.guard = cf::Guard::variance});
}

TEST_CASE("no reward wins by its scale, and only the ratios of weights count") {
  Tensor scores = two_rewards();
  const cf::Gdpo gdpo{.batch_epsilon = 1e-12,
                      .of_each = {.spread = cf::Spread::group, .epsilon = 1e-12}};
  const Tensor before = gdpo.of_rewards(scores, weights, group);
  scores[0] *= 1000;
  scores[1] -= 70;
  CHECK(relative_distance(gdpo.of_rewards(scores, 8 * weights, group), before) < 1e-9);
  CHECK(relative_distance(gdpo.of_rewards(scores, weights * weights, group), before) > 0.01);
  // The sum of rewards is that of the large one.
  const cf::GroupAdvantage of_sum{.spread = cf::Spread::group};
  CHECK(relative_distance(of_sum((weights.unsqueeze(1) * scores).sum(0), group), before) > 0.1);
}

TEST_CASE("a reward that is constant in a group adds nothing there and takes nothing") {
  Tensor scores = two_rewards();
  scores[0].narrow(0, 0, 4).fill_(0.1);
  const cf::Gdpo gdpo{.batch_spread = cf::BatchSpread::none};
  const Tensor each = gdpo.each(scores, group);
  CHECK(each[0].narrow(0, 0, 4).abs().max().item<double>() == 0);
  CHECK(laws::same_bits(gdpo.combined(scores, weights, group).narrow(0, 0, 4),
                        0.5 * each[1].narrow(0, 0, 4)));
  const Tensor nothing = cf::Gdpo{}.of_rewards(at::full_like(scores, 1.0 / 3), weights, group);
  CHECK(nothing.abs().max().item<double>() == 0);
}

TEST_CASE("where a reward abstains its others are compared among themselves") {
  Tensor scores = two_rewards();
  const double nan = std::nan("");
  scores[0][1] = nan;
  scores[0].narrow(0, 4, 4).fill_(nan);
  const cf::Gdpo gdpo;
  const Tensor each = gdpo.each(scores, group);
  CHECK(each[0][1].item<double>() == 0);
  CHECK(each[0].narrow(0, 4, 4).abs().max().item<double>() == 0);
  const Tensor others = at::tensor({0, 2, 3}, at::kLong);
  CHECK(laws::same_bits(
      each[0].index_select(0, others),
      gdpo.of_each(scores[0].index_select(0, others), group.index_select(0, others))));
  CHECK(gdpo.of_rewards(scores, weights, group).isfinite().all().item<bool>());
}

TEST_CASE("by a single reward it is normalised in its group, then over the epoch") {
  const Tensor reward = laws::doubles({8}, 4);
  const Tensor a = cf::Gdpo{}(reward, group);
  CHECK(std::abs(a.std().item<double>() - 1) < 1e-3);
  const Tensor half = reward.narrow(0, 0, 4);
  const Tensor by_hand = (half - half.mean()) / (half.std() + 1e-4);
  CHECK(relative_distance(a.narrow(0, 0, 4) / a[0], by_hand / by_hand[0]) < 1e-12);
}

TEST_CASE("bad scores are refused") {
  check_error([] { cf::Gdpo{}.of_rewards(two_rewards()[0], weights, group); }, "scores", "[R, N]");
  check_error([] { cf::Gdpo{}.of_rewards(two_rewards(), at::ones({3}, at::kDouble), group); },
              "weights", "one a reward");
  Tensor infinite = two_rewards();
  infinite[0][0] = std::numeric_limits<double>::infinity();
  check_error([&] { cf::Gdpo{}.of_rewards(infinite, weights, group); }, "reward", "finite");
  check_error([] { cf::Gdpo{.batch_epsilon = 0}.of_rewards(two_rewards(), weights, group); },
              "batch_epsilon", "above 0");
}

TEST_CASE("each step has advantages of its own") {
  const Tensor reward = laws::doubles({8, 3}, 5);
  const cf::GroupAdvantage advantage;
  const Tensor a = cf::advantages_by_step(advantage, reward, group);
  for (const std::int64_t t : {0, 1, 2}) {
    CHECK(laws::same_bits(a.select(1, t), advantage(reward.select(1, t).contiguous(), group)));
  }
  check_error([&] { cf::advantages_by_step(advantage, reward[0], group); }, "reward", "[N, T]");
}

TEST_CASE("a missing score counts as the mean of its group's") {
  Tensor reward = laws::doubles({3, 4}, 6);
  const Tensor valid = at::ones({3, 4}, at::kBool);
  valid[0][2] = false;
  valid[1].fill_(false);
  reward[0][2] = 1e6;
  const Tensor a = cf::advantages_of_valid(reward, valid);
  CHECK(std::abs(a[0][2].item<double>()) < 1e-12);
  CHECK(a[1].abs().max().item<double>() == 0);
  CHECK(std::abs(a[0].sum().item<double>()) < 1e-12);
  CHECK(relative_distance(a[2], (reward[2] - reward[2].mean()) / (reward[2].std() + 1e-4)) < 1e-12);
}
