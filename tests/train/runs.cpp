// Runs: what is the same, what differs, and what observers see and may do.

#include <mutex>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <torch/nn/modules/conv.h>
#include <torch/utils.h>

#include <contraflow/model/module_velocity.hpp>
#include <contraflow/objective/regression.hpp>
#include <contraflow/solver/window.hpp>

#include "train/small_runs.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using cf::Role;
using cf::Tensor;
using small::distance;
using small::same_bits;
using small::state_of;

namespace {

template <class S, class O>
small::State run(const S& solver, const O& objective, const small::Options& options,
                 std::int64_t epochs = 2) {
  auto trainer = small::trainer(small::policy(), solver, small::reward(), objective, options);
  trainer.run(epochs);
  CHECK(small::is_finite(state_of(trainer)));
  return state_of(trainer);
}

small::State nft(const small::Options& options, std::int64_t epochs = 2) {
  return run(cf::DpmSolver<2>{}, cf::Nft{} + 1e-2 * cf::VelocityKl{}, options, epochs);
}
small::State grpo(const small::Options& options, std::int64_t epochs = 2) {
  return run(cf::FlowSde{}, cf::Grpo{.clip_range = 0.1} + 0.1 * cf::TransitionKl{}, options,
             epochs);
}

auto nft_trainer(const small::Options& options = small::options()) {
  return small::trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, options);
}

}  // namespace

TEST_CASE("the same seed gives the same bits, another seed others") {
  small::Options options = small::options(), other = small::options();
  other.seed.value = 8;
  CHECK(same_bits(nft(options), nft(options)));
  CHECK(same_bits(grpo(options), grpo(options)));
  CHECK_FALSE(same_bits(nft(options), nft(other)));
  CHECK_FALSE(same_bits(grpo(options), grpo(other)));
}

TEST_CASE("scoring beside sampling gives the bits of scoring after it") {
  small::Options options = small::options();
  options.collection.rollout_batch = 5;
  const small::State plain_nft = nft(options), plain_grpo = grpo(options);
  options.collection.asynchronous_scoring = true;
  CHECK(same_bits(nft(options), plain_nft));
  CHECK(same_bits(grpo(options), plain_grpo));
}

TEST_CASE("samples are generated in batches that need not divide anything") {
  std::mutex mutex;
  std::vector<std::int64_t> sizes;
  const auto reward = [&](const Tensor& x0) {
    const std::lock_guard lock(mutex);
    sizes.push_back(x0.size(0));
    return x0.select(1, 0);
  };
  small::Options options = small::options();
  options.collection.rollout_batch = 5;
  auto trainer = small::trainer(small::policy(), cf::FlowSde{}, reward, cf::Grpo{}, options);
  const cf::EpochReport report = trainer.run_epoch();
  CHECK(sizes == std::vector<std::int64_t>{5, 5, 2});
  CHECK(report.find("skipped_steps") == 0);
  CHECK(report.gradient_steps == 1);
  CHECK(small::is_finite(state_of(trainer)));
}

TEST_CASE("micro-batches give the update of the whole batch") {
  small::Options options = small::options();
  options.optimization.optimizer = small::descent(0.05);
  const small::State whole_nft = nft(options, 1), whole_grpo = grpo(options, 1);
  const small::State whole_dpo = run(cf::Euler{}, cf::Dpo{}, options, 1);
  const small::State whole_sum =
      run(cf::FlowSde{}, cf::Grpo{} + 0.1 * cf::FlowMatching{}, options, 1);
  for (const std::int64_t size : {1, 5, 7, 1000}) {
    INFO("micro-batches of " << size);
    options.optimization.micro_batch = size;
    CHECK(distance(nft(options, 1), whole_nft) < 2e-5);
    CHECK(distance(grpo(options, 1), whole_grpo) < 2e-5);
    CHECK(distance(run(cf::Euler{}, cf::Dpo{}, options, 1), whole_dpo) < 2e-5);
    CHECK(distance(run(cf::FlowSde{}, cf::Grpo{} + 0.1 * cf::FlowMatching{}, options, 1),
                   whole_sum) < 2e-5);
  }
}

TEST_CASE("groups, batches and steps need not divide each other") {
  small::Options options = small::options();
  options.collection.prompts_per_epoch = 3;
  options.collection.group_size = 5;
  options.collection.rollout_batch = 4;
  options.learning.gradient_steps = 4;
  options.learning.inner_epochs = 2;
  options.optimization.micro_batch = 7;
  const auto steps = [&](const auto& solver, const auto& objective) {
    auto trainer = small::trainer(small::policy(), solver, small::reward(), objective, options);
    const cf::EpochReport report = trainer.run_epoch();
    CHECK(report.find("skipped_steps") == 0);
    CHECK(small::is_finite(state_of(trainer)));
    return report.gradient_steps;
  };
  CHECK(steps(cf::Euler{}, cf::Nft{}) == 8);
  CHECK(steps(cf::FlowSde{}, cf::Grpo{}) == 8);
  CHECK(steps(cf::Euler{}, cf::Dpo{}) == 6);  // 3 pairs fill only 3 of 4 steps
  options.learning.gradient_steps = 100;
  CHECK(steps(cf::Euler{}, cf::Nft{}) == 2 * 15);
}

namespace {
// A term that writes down the reward of every sample it is given.
struct Witness {
  using Velocities = cf::Roles<Role::current>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "witness";
  std::vector<double>* seen;

  Tensor signal(const cf::Scores& scores) const { return scores.reward; }
  Tensor loss(const cf::ForwardBatch<Velocities>& batch, const Tensor& reward,
              cf::Statistics&) const {
    for (std::int64_t i = 0; i < reward.size(0); ++i) seen->push_back(reward[i].item<double>());
    // The signal of a row is its own: the reward can be had from its x0.
    CHECK(laws::relative_distance(small::reward()(batch.x0), reward) < 1e-5);
    return cf::mean_per_sample(cf::velocity<Role::current>(batch).square());
  }
};
}  // namespace

TEST_CASE("the samples of all gradient steps together are each of them once") {
  std::vector<double> seen;
  small::Options options = small::options();
  options.learning.gradient_steps = 5;
  options.optimization.micro_batch = 3;
  options.forward.times = cf::UniformTimes{};
  auto trainer =
      small::trainer(small::policy(), cf::Euler{}, small::reward(), Witness{&seen}, options);
  trainer.run_epoch();
  REQUIRE(seen.size() == 12);
  std::sort(seen.begin(), seen.end());
  CHECK(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
}

TEST_CASE("run(n) means n epochs in total") {
  auto whole = nft_trainer(), parts = nft_trainer();
  whole.run(5);
  CHECK(parts.run(2).epochs == 2);
  CHECK(parts.run(5).epochs == 5);
  CHECK(parts.epoch() == 5);
  CHECK(same_bits(state_of(whole), state_of(parts)));
  int told = 0;
  const cf::RunReport again = parts.run(5, [&](const cf::EpochReport&) { ++told; });
  CHECK(again.epochs == 5);
  CHECK(told == 0);
  CHECK_FALSE(again.stopped);
  CHECK(same_bits(state_of(whole), state_of(parts)));
}

namespace {
// Writes down all that it is told.
struct Scribe {
  std::string name;
  std::vector<std::string>* lines;
  std::int64_t stop_at = 0;

  void say(const std::string& what) { lines->push_back(name + " " + what); }
  void start(const cf::RunInfo& info) {
    say("start " + std::to_string(info.first_epoch) + "-" + std::to_string(info.last_epoch));
  }
  cf::Verdict operator()(const cf::EpochReport& report) {
    say("epoch " + std::to_string(report.epoch));
    cf::Verdict verdict;
    if (report.epoch == stop_at) {
      verdict = {true, name + " had enough", {{"mood", 1, "a word of " + name}}};
    }
    return verdict;
  }
  void warn(const cf::Warning& warning) { say("warned of " + warning.quantity); }
  void finish(const cf::RunReport& report) {
    say("finish " + std::to_string(report.epochs) + " " + report.reason);
  }
};
}  // namespace

TEST_CASE("observers are told in order, and the first to stop gives the reason") {
  auto trainer = nft_trainer();
  std::vector<std::string> lines;
  const cf::RunReport report =
      trainer.run(9, Scribe{"a", &lines}, Scribe{"b", &lines, 2}, Scribe{"c", &lines, 2});
  CHECK(report.stopped);
  CHECK(report.epochs == 2);
  CHECK(report.reason == "b had enough");
  CHECK(report.last.epoch == 2);
  CHECK(lines == std::vector<std::string>{
                     "a start 1-9", "b start 1-9", "c start 1-9", "a epoch 1", "b epoch 1",
                     "c epoch 1", "a epoch 2", "b epoch 2", "c epoch 2", "a warned of mood",
                     "b warned of mood", "c warned of mood", "a warned of mood", "b warned of mood",
                     "c warned of mood", "a finish 2 b had enough", "b finish 2 b had enough",
                     "c finish 2 b had enough"});
  lines.clear();
  trainer.run(3, Scribe{"a", &lines});
  CHECK(lines == std::vector<std::string>{"a start 3-3", "a epoch 3", "a finish 3 "});
}

TEST_CASE("observers and evaluations do not change what a run computes") {
  small::Options options = small::options();
  auto alone = nft_trainer(options);
  alone.run(3);
  options.evaluation.every = 1;
  auto watched = nft_trainer(options);
  std::vector<std::string> lines;
  watched.run(3, Scribe{"a", &lines}, [](const cf::EpochReport&) {});
  watched.sample(10, 3);
  CHECK(same_bits(state_of(alone), state_of(watched)));
}

TEST_CASE("an evaluation is fixed: same prompts, same noise") {
  auto trainer = nft_trainer();
  trainer.run(1);
  const cf::Evaluation one = trainer.evaluate(), two = trainer.evaluate();
  CHECK(laws::same_bits(one.x0, two.x0));
  CHECK(one.reward == two.reward);
  CHECK(one.masked == 0);
  CHECK(one.x0.sizes() == at::IntArrayRef({16, 2}));
  const double by_hand = small::reward()(one.x0).mean(at::kDouble).item<double>();
  CHECK(std::abs(one.reward - by_hand) < 1e-6);
  REQUIRE(one.scores.size() == 1);
  CHECK(one.scores[0].name == "reward");
  trainer.run(2);
  CHECK_FALSE(laws::same_bits(trainer.evaluate().x0, one.x0));
}

TEST_CASE("samples come from the role that is asked for") {
  auto trainer = nft_trainer();
  trainer.run(2);
  const Tensor current = trainer.sample(6, 1, Role::current);
  CHECK(laws::same_bits(current, trainer.sample(6, 1, Role::current)));
  CHECK_FALSE(at::equal(current, trainer.sample(6, 2, Role::current)));
  CHECK_FALSE(at::equal(current, trainer.sample(6, 1, Role::average)));
  CHECK(current.sizes() == at::IntArrayRef({6, 2}));
  CHECK_FALSE(current.requires_grad());
}

TEST_CASE("a report names what happened") {
  small::Options options = small::options();
  options.evaluation.every = 1;
  auto trainer = small::trainer(
      small::policy(), cf::Euler{},
      cf::rewards("right"_r = small::reward(),
                  "up"_r = cf::weighted(cf::LinearReward{at::tensor({0.0F, 1.0F})}, 2)),
      cf::Nft{} + 0.1 * cf::VelocityKl{}, options);
  const cf::EpochReport report = trainer.run_epoch();
  for (const char* name : {"seconds/collect",
                           "reward/masked",
                           "reward/failed",
                           "reward/failed_groups",
                           "reward/failed_share",
                           "score/right",
                           "score/up",
                           "reward/mean",
                           "reward/std",
                           "zero_std_ratio",
                           "reward/group_std",
                           "loss",
                           "loss/nft",
                           "loss/velocity_kl",
                           "gradient_norm",
                           "velocity_norm",
                           "skipped_steps",
                           "old_deviation",
                           "seconds/epoch",
                           "evaluation/reward",
                           "evaluation/score/right",
                           "evaluation/score/up",
                           "evaluation/masked"}) {
    INFO(name);
    REQUIRE(report.find(name).has_value());
    CHECK(std::isfinite(*report.find(name)));
  }
  CHECK_FALSE(report.find("score/left").has_value());
  CHECK(std::abs(*report.find("reward/mean") -
                 (*report.find("score/right") + 2 * *report.find("score/up"))) < 1e-9);
  CHECK(report.epoch == 1);
  CHECK(report.gradient_steps == 1);
  CHECK(report.seconds > 0);
}

TEST_CASE("the samples of a group share their prompt, and rewards see it") {
  std::vector<std::int64_t> seen;
  const auto reward = [&](const Tensor& x0, const Tensor& label) {
    for (std::int64_t i = 0; i < label.size(0); ++i) seen.push_back(label[i].item<std::int64_t>());
    return x0.select(1, 0) * (label == 1).to(at::kFloat);
  };
  small::Options options = small::options();
  options.collection.prompts_per_epoch = 7;
  auto trainer =
      small::trainer(cf::SnapshotPolicy(cf::MlpVelocity({.width = 16, .depth = 2, .classes = 3})),
                     cf::DpmSolver<2>{}, reward, cf::Nft{}, options, cf::class_prompts(3));
  const cf::EpochReport report = trainer.run_epoch();
  REQUIRE(seen.size() == 28);
  std::vector<int> groups(3);
  for (std::size_t i = 0; i < 28; ++i) {
    CHECK(seen[i] == seen[i / 4 * 4]);
    if (i % 4 == 0) ++groups[static_cast<std::size_t>(seen[i])];
  }
  for (const int count : groups) CHECK((count == 2 || count == 3));
  // Groups of the labels 0 and 2 have equal rewards.
  CHECK(std::abs(*report.find("zero_std_ratio") - (7 - groups[1]) / 7.0) < 1e-12);
  // Samples are of the prompts that are asked for.
  seen.clear();
  CHECK(trainer.sample(at::tensor({2, 2, 0}, at::kLong), 1).size(0) == 3);
  trainer.evaluate();
  CHECK(seen.size() == 16);
  CHECK(std::vector<std::int64_t>(seen.begin(), seen.begin() + 4) ==
        std::vector<std::int64_t>{0, 1, 2, 0});
}

TEST_CASE("an evaluation may be on other prompts") {
  const auto reward = [](const Tensor& x0, const Tensor& label) {
    return label.to(at::kDouble) + 0 * x0.select(1, 0);
  };
  auto trainer =
      small::trainer(cf::SnapshotPolicy(cf::MlpVelocity({.width = 16, .depth = 2, .classes = 4})),
                     cf::Euler{}, reward, cf::Nft{}, small::options(), cf::class_prompts(4));
  CHECK(trainer.evaluate().reward == 1.5);
  CHECK(trainer.evaluate(cf::PromptRows(at::tensor({3, 2}, at::kLong))).reward == 2.5);
}

namespace {
// A convolution as velocity of small pictures.
auto picture_model() {
  const torch::nn::Conv2d layer(torch::nn::Conv2dOptions(2, 1, 3).padding(1));
  return cf::ModuleVelocity(layer, [](auto& module, const Tensor& x, const Tensor& t) {
    return module->forward(at::cat({x, cf::per_sample(t, x).expand_as(x)}, 1));
  });
}
}  // namespace

TEST_CASE("samples may be pictures") {
  torch::manual_seed(1);
  small::Options options = small::options();
  options.collection.sample_shape = {1, 4, 3};
  options.collection.rollout_batch = 5;
  options.optimization.micro_batch = 7;
  const auto brightness = [](const Tensor& x0) { return x0.flatten(1).mean(1); };
  const auto runs = [&](const auto& solver, const auto& objective) {
    auto trainer =
        small::trainer(cf::SnapshotPolicy{picture_model()}, solver, brightness, objective, options);
    const small::State before = state_of(trainer);
    trainer.run(2);
    CHECK(small::is_finite(state_of(trainer)));
    CHECK_FALSE(same_bits(state_of(trainer), before));
    CHECK(trainer.evaluate().x0.sizes() == at::IntArrayRef({16, 1, 4, 3}));
  };
  runs(cf::DpmSolver<2>{}, cf::Nft{} + 0.1 * cf::VelocityKl{});
  runs(cf::FlowSde{}, cf::Grpo{} + 0.1 * cf::TransitionKl{});
  runs(cf::Window<>{}, cf::GrpoGuard{} + 0.1 * cf::FlowMatching{});
  runs(cf::DormandPrince{}, cf::Dpo{});
}

TEST_CASE("the learning rate follows its schedule by gradient steps") {
  std::vector<std::int64_t> asked;
  small::Options options = small::options();
  options.learning.gradient_steps = 2;
  options.optimization.learning_rate_factor = [&](std::int64_t step) {
    asked.push_back(step);
    return step < 2 ? 0.0 : 1.0;
  };
  auto trainer = nft_trainer(options);
  const small::State before = state_of(trainer);
  trainer.run(1);
  CHECK(same_bits(state_of(trainer), before));
  trainer.run(2);
  CHECK_FALSE(same_bits(state_of(trainer), before));
  CHECK(asked == std::vector<std::int64_t>{0, 1, 2, 3});
}

TEST_CASE("gradients are scaled down to the norm that is asked for") {
  const auto moved = [](double max_norm) {
    small::Options options = small::options();
    options.optimization.optimizer = small::descent(1);
    options.optimization.max_gradient_norm = max_norm;
    auto trainer = nft_trainer(options);
    std::vector<Tensor> before;
    for (const Tensor& p : trainer.policy().parameters()) before.push_back(p.detach().clone());
    const cf::EpochReport report = trainer.run_epoch();
    double square = 0;
    for (std::size_t i = 0; i < before.size(); ++i) {
      const Tensor step = trainer.policy().parameters()[i].detach() - before[i];
      square += step.square().sum().item<double>();
    }
    return std::pair(std::sqrt(square), *report.find("gradient_norm"));
  };
  const auto [free, norm] = moved(0);
  CHECK(std::abs(free / norm - 1) < 1e-4);
  const auto [clipped, before_clipping] = moved(norm / 3);
  CHECK(std::abs(clipped / norm - 1.0 / 3) < 1e-4);
  CHECK(std::abs(before_clipping / norm - 1) < 1e-5);
  CHECK(std::abs(moved(2 * norm).first / norm - 1) < 1e-4);
}

TEST_CASE("a window slides with the epochs of a run") {
  // A reward of one, so that the trained steps of an epoch can be counted in evaluations.
  const cf::Window<> window{.place = {.first = 0, .length = 3, .slide_every = 1, .slide_until = 3}};
  auto trainer =
      small::trainer(small::policy(), window, small::reward(), cf::Grpo{}, small::options());
  std::vector<std::int64_t> trained;
  std::int64_t last = 0;
  for (int epoch = 0; epoch < 5; ++epoch) {
    trainer.run_epoch();
    trained.push_back(trainer.evaluations().backward - last);
    last = trainer.evaluations().backward;
  }
  // 4 of 5 steps are recorded: at 2 and 3 the window of 3 reaches beyond them.
  CHECK(trained == std::vector<std::int64_t>{36, 36, 24, 12, 36});
}

TEST_CASE("the old policy moves after an epoch, never within") {
  small::Options options = small::options();
  options.learning.gradient_steps = 3;
  auto trainer =
      small::trainer(cf::SnapshotPolicy(small::model(), {.old_decay = cf::Constant{0}}),
                     cf::Euler{}, small::reward(), cf::Nft{} + 0.1 * cf::VelocityKl{}, options);
  const auto weight = [&](Role role) {
    return cf::module_of(trainer.policy().model(role))->parameters()[0].detach().clone();
  };
  const Tensor start = weight(Role::current);
  trainer.run(1);
  CHECK_FALSE(at::equal(weight(Role::current), start));
  CHECK(at::equal(weight(Role::old), weight(Role::current)));
  CHECK(at::equal(weight(Role::reference), start));
  // The deviation that is reported is the one before the old role moves.
  CHECK(*trainer.run(2).last.find("old_deviation") > 0);
}
