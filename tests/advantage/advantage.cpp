// Advantages, and what is reported of groups.

#include "laws/advantage.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

#include <contraflow/advantage/advantages.hpp>

#include "laws/errors.hpp"

namespace cf = contraflow;
using Catch::Matchers::WithinAbs;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {
Tensor rewards(std::vector<double> values) { return at::tensor(values, at::kDouble); }
Tensor groups(std::vector<std::int64_t> values) { return at::tensor(values, at::kLong); }
}  // namespace

TEST_CASE("advantages keep the laws of advantages") {
  laws::advantage(cf::GroupAdvantage{});
  laws::advantage(cf::GroupAdvantage{.spread = cf::Spread::group});
  laws::advantage(cf::GroupAdvantage{.spread = cf::Spread::none});
  laws::advantage(cf::RankAdvantage{});
  laws::advantage(cf::LeaveOneOut{});
}

TEST_CASE("the spread decides what differences are divided by") {
  const Tensor reward = rewards({1, 3, 10, 10, 16}), group = groups({0, 0, 1, 1, 1});
  const Tensor difference = rewards({-1, 1, -2, -2, 4});
  CHECK(relative_distance(cf::GroupAdvantage{.spread = cf::Spread::none}(reward, group),
                          difference) < 1e-15);
  const double all = reward.std(false).item<double>() + 0.5;
  CHECK(relative_distance(cf::GroupAdvantage{.epsilon = 0.5}(reward, group), difference / all) <
        1e-15);
  const double own = std::sqrt(8.0) + 0.5;
  CHECK(relative_distance(
            cf::GroupAdvantage{.spread = cf::Spread::group, .epsilon = 0.5}(reward, group),
            rewards({-1 / 1.5, 1 / 1.5, -2 / own, -2 / own, 4 / own})) < 1e-14);
}

TEST_CASE("ranks know neither scale nor outliers") {
  const cf::RankAdvantage advantage;
  const Tensor group = groups({7, 7, 7, 7, 7});
  CHECK(relative_distance(advantage(rewards({0, 1e9, 2, 2, 3}), group),
                          rewards({-1, 1, -0.25, -0.25, 0.5})) < 1e-15);
  CHECK(relative_distance(advantage(rewards({1, 2}), groups({0, 0})), rewards({-1, 1})) < 1e-15);
}

TEST_CASE("leave-one-out subtracts the mean of the others") {
  const Tensor reward = laws::doubles({6}), group = groups({0, 1, 0, 1, 1, 1});
  Tensor expected = at::zeros_like(reward);
  for (std::int64_t i = 0; i < 6; ++i) {
    const Tensor others = (group == group[i]).logical_and(at::arange(6) != i);
    expected[i] = reward[i] - reward.masked_select(others).mean();
  }
  CHECK(relative_distance(cf::LeaveOneOut{}(reward, group), expected) < 1e-14);
}

TEST_CASE("statistics of groups") {
  const Tensor reward = rewards({1, 1, 1, 0, 4, 5}), group = groups({3, 3, 3, 8, 8, 9});
  const auto statistics = cf::group_statistics(reward, group);
  CHECK_THAT(statistics.zero_std_ratio, WithinAbs(2.0 / 3, 1e-15));
  CHECK_THAT(statistics.mean_std, WithinAbs(2.0 / 3, 1e-15));
  CHECK_THAT(cf::mean_of_top(reward, group, 100), WithinAbs((1 + 2 + 5) / 3.0, 1e-15));
  CHECK_THAT(cf::mean_of_top(reward, group, 50), WithinAbs((1 + 4 + 5) / 3.0, 1e-15));
  const Tensor five = rewards({0, 1, 2, 3, 4}), same = groups({0, 0, 0, 0, 0});
  CHECK_THAT(cf::mean_of_top(five, same, 50), WithinAbs(3, 1e-15));
  CHECK_THAT(cf::mean_of_top(five, same, 49), WithinAbs(3.5, 1e-15));
  CHECK_THAT(cf::mean_of_top(five, same, 1), WithinAbs(4, 1e-15));
}

TEST_CASE("members of groups come in the order of ids and samples") {
  using Members = std::vector<std::vector<std::int64_t>>;
  CHECK(cf::members_of_groups(groups({2, -1, 2, 0})) == Members{{1}, {3}, {0, 2}});
  // Views are read by their strides.
  const Tensor strided = groups({2, 9, 0, 9, 2, 9}).slice(0, 0, 6, 2);
  CHECK(cf::members_of_groups(strided) == Members{{1}, {0, 2}});
}

TEST_CASE("rewards that cannot be compared are refused") {
  const Tensor reward = rewards({1, 2}), group = groups({0, 0});
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  const auto with = [](const Tensor& r, const Tensor& g) {
    return [=] { cf::GroupAdvantage{}(r, g); };
  };
  check_error(with(Tensor(), group), "reward", "nothing");
  check_error(with(rewards({}), groups({})), "reward", "N > 0, got [0]");
  check_error(with(reward.view({2, 1}), group), "reward", "[2, 1]");
  check_error(with(reward.to(at::kFloat), group), "reward", "float64");
  check_error(with(reward, groups({0})), "group", "[2], got [1]");
  check_error(with(reward, group.to(at::kInt)), "group", "int64");
  check_error(with(rewards({1, nan}), group), "reward", "NaN");
  check_error(with(rewards({-inf, 1}), group), "reward", "infinity");
  check_error([&] { cf::RankAdvantage{}(rewards({nan, 0}), group); }, "reward", "finite");
  check_error([&] { cf::LeaveOneOut{}(rewards({nan, 0}), group); }, "reward", "finite");
  check_error([&] { cf::GroupAdvantage{.epsilon = 0}(reward, group); }, "epsilon", "above 0");
  check_error([&] { cf::GroupAdvantage{.epsilon = -1}(reward, group); }, "epsilon", "above 0");
  check_error([&] { cf::mean_of_top(reward, group, 0); }, "percent", "(0, 100]");
  check_error([&] { cf::mean_of_top(reward, group, 101); }, "percent", "(0, 100]");
  check_error([&] { cf::group_statistics(rewards({nan, 0}), group); }, "reward", "finite");
}
