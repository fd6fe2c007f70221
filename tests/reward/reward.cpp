// Rewards and their combinations.

#include "laws/reward.hpp"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/analytic.hpp>
#include <contraflow/reward/combination.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using cf::Normalisation;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

constexpr cf::Unconditional none;

const auto first_coordinate = [](const Tensor& x0) { return x0.select(1, 0); };

Tensor row(std::vector<double> values) { return at::tensor(values, at::kDouble); }

// A row of scores under a normalisation, as a combination gives it.
Tensor normalised(const Tensor& scores, Normalisation normalisation) {
  const auto bag = cf::rewards("only"_r = cf::weighted(first_coordinate, 1, normalisation));
  return bag.combine(scores.unsqueeze(0));
}

}  // namespace

TEST_CASE("rewards keep the laws of rewards") {
  const Tensor x0 = laws::floats({7, 3});
  laws::reward(cf::NegativeDistance{at::zeros({3})}, x0);
  laws::reward(cf::WithinRadius{laws::floats({2, 3}, 5), 1.5}, x0);
  laws::reward(cf::LinearReward{at::ones({3}), 0.5}, x0);
  laws::reward(cf::NegativeDistance{at::zeros({2, 4})}, laws::floats({7, 2, 4}));
  laws::reward(first_coordinate, x0);
  laws::reward([](const Tensor& x) { return std::vector<float>(size_t(x.size(0)), 0.5F); }, x0);
  laws::reward([](const Tensor& x) { return std::vector<double>(size_t(x.size(0)), 0.1); }, x0);
  laws::reward([](const Tensor& x) { return (x.select(1, 0) > 0).to(at::kLong); }, x0);
  const auto matches = [](const Tensor& x, const Tensor& label) {
    return x.select(1, 0) * label.to(x.options());
  };
  laws::reward(matches, x0, at::arange(7, at::kLong));
}

TEST_CASE("analytic rewards say what they promise") {
  const Tensor x0 = at::tensor({1.0F, 2.0F, 0.0F, 0.0F}).view({2, 2});
  CHECK(at::equal(cf::NegativeDistance{at::tensor({1.0F, 0.0F})}(x0), at::tensor({-4.0F, -1.0F})));
  CHECK(at::equal(cf::LinearReward{at::tensor({2.0F, 1.0F}), 0.5}(x0), at::tensor({4.5F, 0.5F})));
  const cf::WithinRadius near{at::tensor({0.0F, 0.5F}).view({1, 2}), 0.5};
  CHECK(at::equal(near(x0), at::tensor({0.0F, 1.0F})));
  CHECK(near(x0.to(at::kHalf)).scalar_type() == at::kFloat);
}

TEST_CASE("scores are float64 on the CPU without gradient, one a sample") {
  const Tensor x0 = laws::floats({3, 2}).requires_grad_();
  const Tensor scores = cf::scores_of(first_coordinate, x0, none);
  CHECK(scores.scalar_type() == at::kDouble);
  CHECK_FALSE(scores.requires_grad());
  const auto few = [](const Tensor&) { return std::vector<double>{1, 2}; };
  const auto square = [](const Tensor& x) { return x; };
  const auto nothing = [](const Tensor&) { return Tensor(); };
  check_error([&] { cf::scores_of(few, x0, none); }, "reward", "shape [3], got [2]");
  check_error([&] { cf::scores_of(square, x0, none); }, "reward", "[3, 2]");
  check_error([&] { cf::scores_of(nothing, x0, none); }, "reward", "nothing");
}

TEST_CASE("a call with the reference is preferred to a plain one") {
  struct Both {
    Tensor operator()(const Tensor& x) const { return at::zeros({x.size(0)}); }
    Tensor operator()(const Tensor& x, const Tensor&) const { return at::ones({x.size(0)}); }
  };
  const Tensor x0 = at::zeros({2, 2});
  CHECK(cf::scores_of(Both{}, x0, at::zeros({2})).sum().item<double>() == 2);
  CHECK(cf::scores_of(Both{}, x0, none).sum().item<double>() == 0);
}

TEST_CASE("a combination keeps the scores of each reward under its name") {
  const auto bag =
      cf::rewards("first"_r = first_coordinate,
                  "second"_r = cf::weighted([](const Tensor& x) { return x.select(1, 1); }, -2));
  const Tensor x0 = laws::floats({5, 2});
  const cf::ScoreSheet sheet = bag.score(x0, none);
  CHECK(sheet.names == std::vector<std::string>{"first", "second"});
  CHECK(sheet.scores.sizes() == at::IntArrayRef({2, 5}));
  CHECK(sheet.failures.empty());
  CHECK(relative_distance(sheet.scores, x0.t()) < 1e-7);
  const Tensor sum = x0.select(1, 0) - 2 * x0.select(1, 1);
  CHECK(relative_distance(bag.combine(sheet.scores), sum) < 1e-6);
  CHECK(relative_distance(bag.combine_raw(sheet.scores), sum) < 1e-6);
  CHECK(bag.entries()["second"_r].weight == -2);
}

TEST_CASE("a single reward is a bag of one") {
  const auto bag = cf::as_rewards(first_coordinate);
  CHECK(bag.score(at::zeros({2, 2}), none).names == std::vector<std::string>{"reward"});
  const auto same = cf::as_rewards(bag);
  static_assert(std::is_same_v<decltype(bag), decltype(same)>);
}

TEST_CASE("a reward that throws leaves its scores missing and its words in the sheet") {
  const auto bag = cf::rewards(
      "broken"_r = [](const Tensor&) -> Tensor { throw std::runtime_error("the scorer is away"); },
      "fine"_r = first_coordinate);
  const Tensor x0 = laws::floats({3, 2});
  const cf::ScoreSheet sheet = bag.score(x0, none);
  CHECK(sheet.names == std::vector<std::string>{"broken", "fine"});
  CHECK(sheet.failures == std::vector<std::string>{"broken: the scorer is away"});
  CHECK(sheet.scores[0].isnan().all().item<bool>());
  CHECK(relative_distance(sheet.scores[1], x0.select(1, 0)) < 1e-7);
}

TEST_CASE("a reward that gives another number of scores than samples ends the run") {
  const Tensor x0 = laws::floats({3, 2});
  const auto with = [&](const auto& reward) {
    return [=] { cf::rewards("fine"_r = first_coordinate, "odd"_r = reward).score(x0, none); };
  };
  const std::string odd = "reward odd";
  check_error(with([](const Tensor& x) { return x.mean(); }), odd, "shape [3], got []");
  check_error(with([](const Tensor& x) { return x; }), odd, "shape [3], got [3, 2]");
  check_error(with([](const Tensor& x) { return x.narrow(1, 0, 1); }), odd, "got [3, 1]");
  check_error(with([](const Tensor& x) { return x.select(1, 0).narrow(0, 0, 2); }), odd, "got [2]");
  check_error(with([](const Tensor&) { return Tensor(); }), odd, "got nothing");
  check_error(with([](const Tensor&) { return std::vector<double>{1}; }), odd, "got [1]");
  check_error(with([](const Tensor&) { return std::vector<float>(4); }), odd, "got [4]");
  check_error([&] { cf::as_rewards([](const Tensor& x) { return x.sum(); }).score(x0, none); },
              "reward reward", "one score a sample");
  // A sample without a score is no broken contract.
  const auto missing = [](const Tensor& x) { return at::full({x.size(0)}, std::nan("")); };
  CHECK_NOTHROW(with(missing)());
}

TEST_CASE("rewards of one bag are told as much of the prompts as each asks for") {
  const std::vector<std::string> words{"a", "abc", ""};
  const auto length = [](const Tensor&, const std::vector<std::string>& texts) {
    std::vector<double> lengths;
    for (const std::string& text : texts) lengths.push_back(double(text.size()));
    return lengths;
  };
  const auto bag = cf::rewards("x"_r = first_coordinate, "length"_r = length);
  const Tensor x0 = laws::floats({3, 2});
  const Tensor scores = bag.score(x0, words).scores;
  CHECK(relative_distance(scores[0], x0.select(1, 0)) < 1e-7);
  CHECK(at::equal(scores[1], row({1, 3, 0})));
  laws::reward(length, x0, words);
  static_assert(cf::HasReferencedScores<decltype(length), std::vector<std::string>>);
  static_assert(!cf::Reward<decltype(length), Tensor>);
  static_assert(!cf::Reward<decltype(length)>);
}

TEST_CASE("normalisations do what their names say") {
  const Tensor scores = row({3, -1, 7, 3});
  CHECK(at::equal(normalised(scores, Normalisation::none), scores));
  const Tensor standard = normalised(scores, Normalisation::standard);
  CHECK(std::abs(standard.mean().item<double>()) < 1e-15);
  CHECK(std::abs(standard.std(false).item<double>() - 1) < 1e-15);
  CHECK(relative_distance(normalised(scores, Normalisation::min_max), row({0.5, 0, 1, 0.5})) <
        1e-15);
  CHECK(relative_distance(normalised(scores, Normalisation::rank), row({0.5, 0, 1, 0.5})) < 1e-15);
  CHECK(relative_distance(normalised(row({100, 5, 5, 5, -3}), Normalisation::rank),
                          row({1, 0.5, 0.5, 0.5, 0})) < 1e-15);
}

TEST_CASE("equal scores teach nothing under any normalisation") {
  // 0.1 has no finite binary form, so that a mean of several is not 0.1 again.
  for (const std::int64_t count : {1, 3, 6, 7, 10, 23}) {
    for (const double value : {0.1, 0.7, -1e6 / 3, 0.0}) {
      const Tensor scores = at::full({count}, value, at::kDouble);
      INFO(count << " times " << value);
      CHECK(normalised(scores, Normalisation::standard).abs().max().item<double>() == 0);
      CHECK(normalised(scores, Normalisation::min_max).abs().max().item<double>() == 0);
      const Tensor ranks = normalised(scores, Normalisation::rank);
      CHECK(ranks.min().item<double>() == ranks.max().item<double>());
    }
  }
}

TEST_CASE("weights add normalised scores and stay out of raw ones") {
  const auto bag = cf::rewards("a"_r = cf::weighted(first_coordinate, 2, Normalisation::min_max),
                               "b"_r = cf::weighted(first_coordinate, 3, Normalisation::rank));
  const Tensor scores = at::stack({row({10, 30}), row({-5, 5})});
  CHECK(relative_distance(bag.combine(scores), row({0, 5})) < 1e-15);
  CHECK(relative_distance(bag.combine_raw(scores), row({2 * 10 - 15, 2 * 30 + 15})) < 1e-15);
  const double inf = std::numeric_limits<double>::infinity();
  check_error([&] { cf::weighted(first_coordinate, inf); }, "weight", "finite");
  check_error([&] { cf::weighted(first_coordinate, std::nan("")); }, "weight", "finite");
}
