// Runs on rewards that are compared by themselves, and that see whole groups.

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/distributed/team.hpp>
#include <contraflow/objective/ddrl.hpp>
#include <contraflow/objective/dgpo.hpp>
#include <contraflow/objective/velocity_kl.hpp>
#include <contraflow/reward/list.hpp>

#include "laws/errors.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using cf::Tensor;
using laws::relative_distance;

namespace {

const auto first = [](const Tensor& x0) { return x0.select(1, 0); };
const auto second = [](const Tensor& x0) { return x0.select(1, 1); };

// The weights after an epoch of plain descent.
template <class Bag, class... More>
Tensor learnt(Bag bag, small::Options o, const More&... more) {
  o.optimization.optimizer = small::descent(1e-2);
  auto trainer =
      small::trainer(small::policy(), cf::Euler{}, std::move(bag), cf::Nft{}, o, more...);
  trainer.run(1);
  std::vector<Tensor> weights;
  for (const Tensor& weight : trainer.policy().parameters()) {
    weights.push_back(weight.detach().flatten().clone());
  }
  return at::cat(weights);
}

// A reward of groups that notes how large they were.
struct Noting {
  std::shared_ptr<std::vector<std::int64_t>> sizes = std::make_shared<std::vector<std::int64_t>>();
  Tensor of_group(const Tensor& x0) const {
    sizes->push_back(x0.size(0));
    return x0.select(1, 0);
  }
};

// What a term on the forward process was given.
struct Seen {
  Tensor x0, eps, t;
};
struct Storing {
  using Velocities = cf::Roles<small::Role::current>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "storing";

  std::shared_ptr<std::vector<Seen>> seen = std::make_shared<std::vector<Seen>>();

  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, cf::Statistics&) const {
    seen->push_back({batch.x0, batch.eps, batch.t});
    return cf::matching_error(batch, cf::velocity<small::Role::current>(batch));
  }
};
// The same of data, drawn for each sample.
struct StoringData : Storing {
  static constexpr std::string_view name = "storing_data";
  Tensor data(const Tensor& prompt, cf::Generator& generator) const {
    return cf::normal({prompt.size(0), 2}, generator) + 10;
  }
};

}  // namespace

TEST_CASE("a trainer gives an advantage by each reward all of them") {
  const auto with = [&](double scale, const auto& advantage) {
    const auto large = [=](const Tensor& x0) { return scale * first(x0); };
    return learnt(cf::rewards("a"_r = large, "b"_r = second), small::options(), advantage);
  };
  const cf::Gdpo gdpo{.of_each = {.spread = cf::Spread::group, .epsilon = 1e-9}};
  const Tensor one = with(1, gdpo);
  CHECK(relative_distance(with(4096, gdpo), one) < 1e-6);
  CHECK(relative_distance(with(4096, cf::GroupAdvantage{}), with(1, cf::GroupAdvantage{})) > 1e-6);
  // A list chosen while the program runs is the same.
  cf::RewardList<cf::Unconditional> list;
  list.add("a", first);
  list.add("b", second);
  CHECK(laws::same_bits(learnt(list, small::options(), gdpo), one));
}

TEST_CASE("by each reward an abstention leaves the others as they are") {
  const auto never = [](const Tensor& x0) {
    return cf::PartialScores{x0.select(1, 1), at::ones({x0.size(0)}, at::kBool)};
  };
  const auto both = learnt(cf::rewards("a"_r = first, "b"_r = never), small::options(), cf::Gdpo{});
  CHECK(laws::same_bits(both, learnt(cf::rewards("a"_r = first), small::options(), cf::Gdpo{})));
}

TEST_CASE("a reward of groups sees each group once and whole, however samples come") {
  for (const bool asynchronous : {false, true}) {
    small::Options o = small::options();
    o.collection.rollout_batch = 5;  // through the middle of groups of four
    o.collection.asynchronous_scoring = asynchronous;
    const Noting noting;
    const Tensor weights = learnt(noting, o);
    CHECK(*noting.sizes == std::vector<std::int64_t>{4, 4, 4});
    CHECK(laws::same_bits(weights, learnt(first, o)));
  }
}

TEST_CASE("ranks that share an epoch's groups score them as one does") {
  const Noting alone;
  const Tensor weights = learnt(alone, small::options());
  std::vector<Tensor> of_rank(2);
  std::vector<Noting> noting(2);
  cf::Team(2).run([&](const cf::TeamRank& rank) {
    const auto own = static_cast<std::size_t>(rank.rank());
    of_rank[own] = learnt(noting[own], small::options(), rank);
  });
  CHECK(noting[0].sizes->size() + noting[1].sizes->size() == 3);
  for (const Tensor& own : of_rank) CHECK(relative_distance(own, weights) < 1e-5);
}

TEST_CASE("rewards of groups abstain in evaluations") {
  auto trainer = small::trainer(small::policy(), cf::Euler{},
                                cf::rewards("group"_r = Noting{}, "own"_r = first), cf::Nft{},
                                small::options());
  const cf::Evaluation evaluation = trainer.evaluate();
  REQUIRE(evaluation.scores.size() == 1);
  CHECK(evaluation.scores[0].name == "own");
  CHECK(evaluation.masked == 0);
}

TEST_CASE("terms that compare groups learn from whole ones in any micro-batch") {
  const auto weights = [&](std::int64_t micro_batch) {
    small::Options o = small::options();
    o.optimization.optimizer = small::descent(1e-2);
    o.optimization.micro_batch = micro_batch;
    o.forward.times = cf::UniformTimes{.per_sample = 2};
    auto trainer = small::trainer(small::policy(), cf::Euler{}, first, cf::Dgpo{.beta = 3}, o);
    const cf::RunReport run = trainer.run(1);
    CHECK(run.last.find("loss/group_weight").has_value());
    std::vector<Tensor> all;
    for (const Tensor& weight : trainer.policy().parameters()) all.push_back(weight.flatten());
    return at::cat(all).detach().clone();
  };
  const Tensor whole = weights(0);
  CHECK(relative_distance(weights(5), whole) < 1e-5);
  CHECK(relative_distance(whole, at::cat([] {
                            std::vector<Tensor> all;
                            auto policy = small::policy();
                            for (const Tensor& weight : policy.parameters())
                              all.push_back(weight.flatten());
                            return all;
                          }())) > 1e-6);
}

TEST_CASE("data stand in the place of samples, noised as these are") {
  const auto run = [](std::int64_t rollout_batch, std::int64_t micro_batch) {
    small::Options o = small::options();
    o.collection.rollout_batch = rollout_batch;
    o.optimization.micro_batch = micro_batch;
    const Storing of_samples;
    const StoringData of_data;
    auto trainer = small::trainer(small::policy(), cf::FlowSde{}, first,
                                  cf::Grpo{} + of_samples + 0.5 * of_data, o);
    CHECK(trainer.run(1).last.find("loss/storing_data").has_value());
    return std::pair{*of_samples.seen, *of_data.seen};
  };
  const auto [samples, data] = run(0, 0);
  REQUIRE(samples.size() == 1);
  REQUIRE(data.size() == 1);
  CHECK(laws::same_bits(samples[0].eps, data[0].eps));
  CHECK(laws::same_bits(samples[0].t, data[0].t));
  CHECK(data[0].x0.min().item<float>() > 3);
  CHECK(samples[0].x0.abs().max().item<float>() < 10);
  // Those of a sample are its own, however samples come and in whatever parts they are learnt.
  const auto parts = run(5, 5).second;
  std::vector<Tensor> x0;
  for (const Seen& part : parts) x0.push_back(part.x0);
  CHECK(parts.size() > 1);
  CHECK(laws::same_bits(at::cat(x0), data[0].x0));
}

TEST_CASE("a policy gradient beside data learns both, and bad data are refused") {
  const auto at_three = [](const Tensor& prompt, cf::Generator&) {
    return at::full({prompt.size(0), 2}, 3.0F);
  };
  small::Options o = small::options();
  o.learning.gradient_steps = 4;
  auto trainer = small::trainer(small::policy(), cf::Cps{}, first,
                                cf::Grpo{.clip_range = 0.1} + cf::DataMatching(at_three), o);
  const double before = trainer.run(1).last.find("loss/data_matching").value_or(0);
  CHECK(trainer.run(30).last.find("loss/data_matching").value_or(before) < 0.6 * before);
  const auto too_few = [](const Tensor&, cf::Generator&) { return at::zeros({1, 2}); };
  auto bad =
      small::trainer(small::policy(), cf::Cps{}, first, cf::Grpo{} + cf::DataMatching(too_few), o);
  laws::check_error([&] { bad.run(1); }, "data of a term", "shape [12, 2]");
}

TEST_CASE("Flow-DPPO tells by step of its ratios, and of what it drops") {
  small::Options o = small::options();
  o.transitions.report_steps = true;
  o.learning.inner_epochs = 2;
  auto trainer =
      small::trainer(small::policy(), cf::FlowSde{}, first, cf::FlowDppo{.threshold = 1e-30}, o);
  const cf::EpochReport told = trainer.run(1).last;
  double masked = 0;
  for (const std::string step : {"0", "1", "2", "3"}) {
    CHECK(told.find("loss/ratio_deviation/" + step).value_or(0) > 0);
    masked += told.find("loss/masked/" + step).value_or(0);
  }
  CHECK(masked > 0);
  CHECK(std::abs(masked / 4 - told.find("loss/masked_fraction").value_or(0)) < 1e-6);
  CHECK(!told.find("loss/clipped_below/0"));
}

TEST_CASE("ratios are told by step where that is asked for") {
  const auto report = [](bool by_step, const auto&... communicator) {
    small::Options o = small::options();
    o.transitions.report_steps = by_step;
    o.learning.inner_epochs = 2;  // the second pass has ratios beside 1
    return small::trainer(small::policy(), cf::FlowSde{}, first, cf::Grpo{.clip_range = 1e-3}, o,
                          communicator...)
        .run(1)
        .last;
  };
  const cf::EpochReport told = report(true);
  double clipped = 0;
  for (const std::string step : {"0", "1", "2", "3"}) {
    CHECK(std::abs(told.find("loss/ratio/" + step).value_or(0) - 1) < 0.2);
    CHECK(told.find("loss/ratio_deviation/" + step).value_or(0) > 0);
    clipped += told.find("loss/clipped_below/" + step).value_or(0);
    clipped += told.find("loss/clipped_above/" + step).value_or(0);
    const double least = told.find("loss/ratio_least/" + step).value_or(2),
                 greatest = told.find("loss/ratio_greatest/" + step).value_or(0);
    CHECK(least < told.find("loss/ratio/" + step).value_or(0));
    CHECK(greatest > told.find("loss/ratio/" + step).value_or(2));
    // The square of the largest is at most the sum of all.
    const double farthest = std::max(greatest - 1, 1 - least);
    const double mean_square = told.find("loss/ratio_deviation/" + step).value_or(0);
    CHECK(farthest * farthest >= mean_square);
    CHECK(farthest * farthest <= 24 * mean_square * (1 + 1e-5));  // 12 samples, twice
  }
  CHECK(clipped > 0);
  CHECK(std::abs(clipped / 4 - told.find("loss/clip_fraction").value_or(0)) < 1e-6);
  CHECK(!told.find("loss/ratio/4"));  // the last step is not trained
  CHECK(!report(false).find("loss/ratio/0"));
  std::vector<cf::EpochReport> of_rank(2);
  cf::Team(2).run([&](const cf::TeamRank& rank) {
    of_rank[static_cast<std::size_t>(rank.rank())] = report(true, rank);
  });
  for (const cf::EpochReport& own : of_rank) {
    for (const char* name : {"loss/ratio/2", "loss/ratio_least/1", "loss/ratio_greatest/3",
                             "loss/clip_fraction", "loss/grpo"}) {
      CHECK(std::abs(own.find(name).value_or(0) - told.find(name).value_or(1)) < 1e-4);
    }
  }
}

TEST_CASE("extremes are those of all batches and ranks, and of no rank without values") {
  const Tensor step = at::tensor({0, 2, 2}, at::kLong);
  const auto told = [&](cf::Statistics& statistics) {
    std::map<std::string, double> values;
    statistics.for_each([&](std::string_view name, double value) { values.emplace(name, value); });
    return values;
  };
  const std::map<std::string, double> expected{
      {"x_least/0", -4}, {"x_least/2", 2}, {"x_greatest/0", 1}, {"x_greatest/2", 9}};
  const auto add = [&](cf::Statistics& statistics, int part) {
    if (part == 0) statistics.add_extremes_by_step("x", at::tensor({1.0, 9.0, 3.0}), step, 4);
    if (part == 1) statistics.add_extremes_by_step("x", at::tensor({-4.0, 2.0, 5.0}), step, 4);
  };
  cf::Statistics of_one;
  for (const int part : {0, 1}) add(of_one, part);
  CHECK(told(of_one) == expected);
  std::vector<std::map<std::string, double>> of_rank(3);
  cf::Team(3).run([&](const cf::TeamRank& rank) {
    cf::Statistics own;
    add(own, rank.rank());
    own.add_up(rank);
    of_rank[static_cast<std::size_t>(rank.rank())] = told(own);
  });
  for (const auto& own : of_rank) CHECK(own == expected);
}

TEST_CASE("the distance from the reference is told by time where that is asked for") {
  const auto report = [](bool by_time, const auto& objective, double t = 0.3) {
    small::Options o = small::options();
    o.learning.gradient_steps = 3;  // the first sees no distance yet
    o.forward.times = [t](std::int64_t units, const cf::TimeGrid&, cf::Generator&) {
      return at::tensor({t, 0.9}, at::kFloat).expand({units, 2});
    };
    o.forward.report_times = by_time;
    return small::trainer(small::policy(), cf::Euler{}, first, objective, o).run(2).last;
  };
  const auto find = [](const cf::EpochReport& told, const std::string& name) {
    return told.find(name).value_or(-1);
  };
  const auto check = [&](const auto& objective) {
    const cf::EpochReport told = report(true, objective);
    const double low = find(told, "loss/velocity_kl/1"), high = find(told, "loss/velocity_kl/3");
    CHECK(low > 0);
    CHECK(high > 0);
    CHECK(std::abs(low - high) > 1e-3 * high);
    CHECK(std::abs((low + high) / 2 - find(told, "loss/velocity_kl")) < 1e-6 * high);
    CHECK(!told.find("loss/velocity_kl/0"));
    CHECK(!told.find("loss/velocity_kl/2"));
    CHECK(!report(false, objective).find("loss/velocity_kl/1"));
    // The ends belong to the first and the last quarter.
    CHECK(find(report(true, objective, 0), "loss/velocity_kl/0") > 0);
    CHECK(find(report(true, objective, 1), "loss/velocity_kl/3") > 0);
  };
  check(cf::Nft{} + 0.1 * cf::VelocityKl{});
  check(cf::VelocityKl{} + cf::Nft{});
}
