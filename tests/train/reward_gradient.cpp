// Runs on the gradient of a reward.

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/distributed/team.hpp>
#include <contraflow/train/checkpoint.hpp>
#include <contraflow/train/reward_gradient.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::relative_distance;

namespace {

auto ascending(const cf::RewardAscent& ascent, std::uint64_t seed = 7) {
  const auto reward = cf::differentiable([](const Tensor& x0) {
    return -(x0 - at::tensor({1.0F, 0.5F})).square().mean(1);
  });
  return std::make_unique<
      cf::RewardGradientTrainer<cf::SnapshotPolicy<cf::MlpVelocity>, decltype(reward), cf::Refl,
                                cf::RewardAscent, cf::Optimization, cf::Seed>>(
      small::policy(), reward, cf::Refl{.last_steps = 3}, ascent,
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-2})}, cf::Seed{seed});
}

cf::RewardAscent small_ascent() { return {.batch = 16, .steps = 3, .grid = cf::uniform_grid(5)}; }

Tensor towards_zero(const Tensor& x0) { return -x0.square().mean(1); }

template <class T>
Tensor weights_of(T& trainer) {
  std::vector<Tensor> all;
  for (const Tensor& weight : trainer.policy().parameters()) all.push_back(weight.flatten());
  return at::cat(all).detach().clone();
}

// What came of an epoch of plain descent, and how many samples the reward was given at a time.
struct Learnt {
  Tensor weights;
  double reward;
  std::vector<std::int64_t> sizes;
};
template <class Path>
Learnt learnt(const Path& path, std::int64_t micro_batch) {
  std::vector<std::int64_t> sizes;
  const auto reward = cf::differentiable([&](const Tensor& x0) {
    sizes.push_back(x0.size(0));
    return towards_zero(x0);
  });
  cf::Optimization optimization;
  optimization.optimizer = small::descent(1e-2);
  optimization.micro_batch = micro_batch;
  cf::RewardGradientTrainer trainer(small::policy(), reward, path, small_ascent(), optimization,
                                    cf::Seed{3});
  const cf::RunReport run = trainer.run(1);
  CHECK(trainer.gradient_steps() == 3);
  return {weights_of(trainer), run.last.find("reward/mean").value_or(0), sizes};
}

template <class Path>
void check_micro_batches(const Path& path, std::int64_t copies = 1) {
  const Learnt whole = learnt(path, 0);
  CHECK(whole.sizes == std::vector<std::int64_t>(3, 16 * copies));
  auto untrained = cf::SnapshotPolicy(small::model());
  std::vector<Tensor> before;
  for (const Tensor& weight : untrained.parameters()) before.push_back(weight.flatten());
  CHECK(relative_distance(whole.weights, at::cat(before)) > 1e-4);
  for (const std::int64_t micro_batch : {1, 5, 100}) {
    INFO("micro-batches of " << micro_batch);
    const Learnt parts = learnt(path, micro_batch);
    CHECK(*std::max_element(parts.sizes.begin(), parts.sizes.end()) ==
          std::min<std::int64_t>(micro_batch, 16) * copies);
    CHECK(relative_distance(parts.weights, whole.weights) < 1e-6);
    CHECK(std::abs(parts.reward - whole.reward) < 1e-6);
  }
}

// Keeps the warnings of a run.
struct Listener {
  std::vector<cf::Warning>* warnings;
  void operator()(const cf::EpochReport&) {}
  void warn(const cf::Warning& warning) { warnings->push_back(warning); }
};

// Two epochs, each evaluated by a reward that is another one where no gradient is asked for.
template <class InEvaluations>
cf::RunReport evaluated(const InEvaluations& in_evaluations, std::vector<cf::Warning>& warnings) {
  const auto reward = cf::differentiable([&](const Tensor& x0) {
    return x0.requires_grad() ? towards_zero(x0) : Tensor(in_evaluations(x0));
  });
  cf::RewardGradientTrainer trainer(small::policy(), reward, cf::DraftK<>{}, small_ascent(),
                                    cf::EvaluationOptions{.every = 1, .samples = 4});
  return trainer.run(2, Listener{&warnings});
}

// Whether two ranks that differ are told so, by the name of what differs.
template <class Make>
void check_disagreement(const char* name, const Make& make) {
  INFO(name);
  laws::check_error(
      [&] {
        cf::Team(2).run([&](const cf::TeamRank& rank) {
          make(rank.rank() == 1, [&](const auto& path, const auto&... components) {
            cf::RewardGradientTrainer trainer(small::policy(), cf::differentiable(towards_zero),
                                              path, components..., rank);
            trainer.run(1);
          });
        });
      },
      name, "the same on all ranks");
}

}  // namespace

TEST_CASE("the gradient of a reward raises it, the same in every run of a seed") {
  const auto trainer = ascending(small_ascent());
  const double before = trainer->evaluate().reward;
  const cf::RunReport run = trainer->run(15);
  const double after = trainer->evaluate().reward;
  CHECK(after > before + 0.05);
  CHECK(run.last.find("reward/mean").has_value());
  CHECK(run.last.gradient_steps == 45);
  CHECK(trainer->evaluations().backward == 45 * 16);
  CHECK(!run.last.find("evaluation/reward"));
  const auto again = ascending(small_ascent());
  again->run(15);
  CHECK(again->evaluate().reward == after);
  const auto other = ascending(small_ascent(), 8);
  other->run(15);
  CHECK(other->evaluate().reward != after);
}

TEST_CASE("a reward above the clip teaches nothing") {
  cf::RewardAscent ascent = small_ascent();
  ascent.clip = -1e6;
  const auto trainer = ascending(ascent);
  const double before = trainer->evaluate().reward;
  const cf::RunReport run = trainer->run(2);
  CHECK(run.last.find("loss").value_or(1) == 0);
  CHECK(std::abs(trainer->evaluate().reward - before) < 1e-3);
  ascent.batch = 0;
  laws::check_error([&] { ascending(ascent); }, "batch", "at least 1");
}

TEST_CASE("two ranks climb as one does") {
  const auto run = [](const auto&... communicator) {
    const auto reward = cf::differentiable(towards_zero);
    cf::RewardGradientTrainer trainer(
        small::policy(), reward, cf::DrTune{.train_steps = 2}, small_ascent(),
        cf::Optimization{.optimizer = small::descent(1e-2)}, cf::Seed{3}, communicator...);
    trainer.run(2);
    return weights_of(trainer);
  };
  const Tensor alone = run();
  std::vector<Tensor> of_rank(2);
  cf::Team(2).run([&](const cf::TeamRank& rank) {
    of_rank[static_cast<std::size_t>(rank.rank())] = run(rank);
  });
  for (const Tensor& own : of_rank) CHECK(relative_distance(own, alone) < 1e-5);
}

TEST_CASE("the gradient of a reward is learnt from in any micro-batch") {
  check_micro_batches(cf::Refl{.last_steps = 5});
  check_micro_batches(cf::DraftK<>{.last_steps = 2});
  check_micro_batches(cf::DraftLv{.copies = 2}, 3);
  check_micro_batches(cf::DrTune{.train_steps = 2, .stop_share = 1});
}

TEST_CASE("a share of the steps that rounding makes too small by a hair is whole") {
  // 0.58 * 50 is 28.999999999999996.
  const cf::DrTune path{.train_steps = 1, .stop_share = 0.58};
  const cf::TimeGrid grid = cf::uniform_grid(50);
  const at::NoGradGuard no_gradient;
  int fewest = 50;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    int evaluations = 0;
    auto velocity = [&](const Tensor& x, double) {
      ++evaluations;
      return x;
    };
    cf::PathDraws draws{cf::seeded(seed), cf::seeded(0)};
    path(velocity, at::ones({1, 1}), grid, draws);
    fewest = std::min(fewest, evaluations);
  }
  CHECK(fewest == 50 - 29 + 1);
}

TEST_CASE("ranks agree in how they climb") {
  const auto ascends = [](const char* name, auto change) {
    check_disagreement(name, [&](bool other, const auto& run) {
      cf::RewardAscent ascent = small_ascent();
      if (other) change(ascent);
      run(cf::DraftK<>{}, ascent);
    });
  };
  ascends("batch", [](auto& ascent) { ascent.batch = 17; });
  ascends("steps", [](auto& ascent) { ascent.steps = 4; });
  ascends("clip", [](auto& ascent) { ascent.clip = 0; });
  ascends("scale", [](auto& ascent) { ascent.scale = 2; });
  ascends("grid", [](auto& ascent) { ascent.grid = cf::sd3_grid(5); });
  ascends("sample_shape", [](auto& ascent) { ascent.sample_shape = {1, 2}; });
  const auto walks = [](const char* name, const auto& path, const auto& other_path) {
    check_disagreement(
        name, [&](bool other, const auto& run) { run(other ? other_path : path, small_ascent()); });
  };
  walks("last_steps", cf::Refl{.last_steps = 3}, cf::Refl{.last_steps = 4});
  walks("last_steps", cf::DraftK<>{.last_steps = 1}, cf::DraftK<>{.last_steps = 2});
  walks("copies", cf::DraftLv{.copies = 1}, cf::DraftLv{.copies = 2});
  walks("train_steps", cf::DrTune{.train_steps = 1}, cf::DrTune{.train_steps = 2});
  walks("stop_share", cf::DrTune{.stop_share = 0.4}, cf::DrTune{.stop_share = 0.5});
  const auto evaluates = [](const char* name, const cf::EvaluationOptions& evaluation) {
    check_disagreement(name, [&](bool other, const auto& run) {
      run(cf::DraftK<>{}, small_ascent(), other ? evaluation : cf::EvaluationOptions{});
    });
  };
  evaluates("every", {.every = 2});
  evaluates("samples", {.samples = 3});
}

TEST_CASE("an evaluation is reported with its scores") {
  std::vector<cf::Warning> warnings;
  const cf::RunReport run =
      evaluated([](const Tensor& x0) { return at::arange(x0.size(0), at::kDouble); }, warnings);
  CHECK(run.last.find("evaluation/reward") == 1.5);
  CHECK(run.last.find("evaluation/score/reward") == 1.5);
  CHECK(run.last.find("evaluation/masked") == 0);
  CHECK(warnings.empty());
}

TEST_CASE("a reward that fails in an evaluation is absent there, with a warning") {
  std::vector<cf::Warning> thrown, missing;
  const auto throws = [](const Tensor&) -> Tensor {
    throw std::runtime_error("the judge is gone");
  };
  const auto no_score = [](const Tensor& x0) {
    return at::full({x0.size(0)}, std::numeric_limits<double>::quiet_NaN());
  };
  for (const cf::RunReport& run : {evaluated(throws, thrown), evaluated(no_score, missing)}) {
    CHECK(run.epochs == 2);
    CHECK(run.last.find("reward/mean").has_value());
    CHECK(!run.last.find("evaluation/reward"));
    CHECK(!run.last.find("evaluation/score/reward"));
    CHECK(run.last.find("evaluation/masked") == 4);
  }
  REQUIRE(thrown.size() == 2);
  CHECK(thrown[0].quantity == "evaluation/failure");
  CHECK(thrown[0].message.find("the judge is gone") != std::string::npos);
  REQUIRE(missing.size() == 2);
  CHECK(missing[0].quantity == "evaluation/masked");
  CHECK(missing[0].value == 4);
}

TEST_CASE("a resumed climb has the bits of one that was never stopped") {
  const TemporaryDirectory folder;
  const auto whole = ascending(small_ascent()), first = ascending(small_ascent());
  whole->run(4);
  first->run(2, cf::Checkpoint{.directory = folder.path(), .every = 100});
  const auto second = ascending(small_ascent(), 8);  // another seed: the checkpoint's is taken
  REQUIRE(cf::resume(*second, folder.path()));
  CHECK(second->epoch() == 2);
  second->run(4);
  const cf::TrainerState one = whole->state(), other = second->state();
  REQUIRE(one.tensors.size() == other.tensors.size());
  for (const auto& [name, tensor] : one.tensors) {
    INFO(name);
    CHECK(at::equal(tensor, other.tensors.at(name)));
  }
  for (const char* count :
       {"epoch", "gradient_steps", "forward_evaluations", "backward_evaluations", "seed"}) {
    INFO(count);
    CHECK(one.counts.at(count) == other.counts.at(count));
  }
  const auto momenta = cf::state_of(whole->optimizer()), others = cf::state_of(second->optimizer());
  REQUIRE(momenta.tensors.size() == others.tensors.size());
  for (const auto& [name, tensor] : momenta.tensors) {
    CHECK(at::equal(tensor, others.tensors.at(name)));
  }
  CHECK(second->evaluate().reward == whole->evaluate().reward);
}
