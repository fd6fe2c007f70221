// Runs on the gradient of a reward, by terms of an objective.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/distributed/team.hpp>
#include <contraflow/objective/regression.hpp>
#include <contraflow/objective/reward_gradient.hpp>
#include <contraflow/objective/velocity_kl.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "laws/errors.hpp"
#include "network/tiny_mmdit.hpp"
#include "observe/temporary_directory.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::relative_distance;

namespace {

Tensor towards_zero(const Tensor& x0) { return -x0.square().mean(1); }
Tensor towards_goal(const Tensor& x0) { return -(x0 - at::tensor({1.0F, 0.5F})).square().mean(1); }

cf::Collection collection() {
  return {.prompts_per_epoch = 16, .group_size = 1, .grid = cf::uniform_grid(5)};
}
cf::Optimization plain_descent() {
  cf::Optimization optimization;
  optimization.optimizer = small::descent(1e-2);
  optimization.max_gradient_norm = 0;
  return optimization;
}

template <class O>
auto ascending(O objective, std::uint64_t seed = 7) {
  const auto reward = cf::differentiable(towards_goal);
  return cf::Trainer(small::policy(), cf::Euler{}, reward, objective, collection(),
                     cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-2})},
                     cf::Seed{seed});
}

template <class P>
Tensor weights_of(P& policy) {
  std::vector<Tensor> all;
  for (const Tensor& weight : policy.parameters()) all.push_back(weight.flatten());
  return at::cat(all).detach().clone();
}
Tensor first_weights() {
  auto untrained = small::policy();
  return weights_of(untrained);
}

// By what an epoch of one step of plain descent has moved the weights, over the rate: minus the
// gradient.
template <class O, class... More>
Tensor gradient_of(const O& objective, const More&... more) {
  cf::Trainer trainer(small::policy(), cf::Euler{}, cf::differentiable(towards_zero), objective,
                      collection(), cf::Seed{3}, more...);
  trainer.run_epoch();
  return (first_weights() - weights_of(trainer.policy())) / 1e-2;
}

// The same by the functions on a whole chain, from the noise of the same samples.
template <class Path>
Tensor gradient_of_chain(const Path& path) {
  auto policy = small::policy();
  cf::Generator noise =
      cf::seeded(3).stream(std::uint64_t{0}).stream(cf::Purpose::noise).rows(at::arange(16));
  auto velocity = [&](const Tensor& x, double sigma) {
    return policy.velocity(cf::Role::current, x, at::full({x.size(0)}, sigma), cf::Unconditional{});
  };
  (-towards_zero(path(velocity, cf::normal({16, 2}, noise, at::kFloat))).mean()).backward();
  std::vector<Tensor> all;
  for (const Tensor& weight : policy.parameters()) all.push_back(weight.grad().flatten());
  return at::cat(all);
}
template <class T>
std::vector<std::size_t> steps_of(const T& term) {
  cf::Generator own = cf::seeded(3).stream(std::uint64_t{0}).stream(cf::Purpose::times, 0);
  return term.steps(collection().grid, own);
}

// What came of two epochs, and how many samples the reward was given with a gradient at a time.
struct Learnt {
  Tensor weights;
  std::vector<std::int64_t> sizes;
};
template <class O>
Learnt learnt(const O& objective, std::int64_t micro_batch) {
  std::vector<std::int64_t> sizes;
  const auto reward = cf::differentiable([&](const Tensor& x0) {
    if (x0.requires_grad()) sizes.push_back(x0.size(0));
    return towards_zero(x0);
  });
  cf::Optimization optimization = plain_descent();
  optimization.micro_batch = micro_batch;
  cf::Trainer trainer(small::policy(), cf::Euler{}, reward, objective, collection(),
                      cf::Learning{.gradient_steps = 2}, optimization, cf::Seed{3});
  trainer.run(2);
  CHECK(trainer.gradient_steps() == 4);
  return {weights_of(trainer.policy()), sizes};
}
template <class O>
void check_micro_batches(const O& objective, std::int64_t copies = 1) {
  const Learnt whole = learnt(objective, 0);
  CHECK(whole.sizes == std::vector<std::int64_t>(4, 8 * copies));
  CHECK(relative_distance(whole.weights, first_weights()) > 1e-4);
  for (const std::int64_t micro_batch : {1, 5, 100}) {
    INFO("micro-batches of " << micro_batch);
    const Learnt parts = learnt(objective, micro_batch);
    CHECK(*std::max_element(parts.sizes.begin(), parts.sizes.end()) ==
          std::min<std::int64_t>(micro_batch, 8) * copies);
    CHECK(relative_distance(parts.weights, whole.weights) < 1e-6);
  }
}

// Whether two ranks that differ in an option are told so, by its name.
template <class O>
void check_disagreement(const char* name, const O& objective, const O& other) {
  INFO(name);
  laws::check_error(
      [&] {
        cf::Team(2).run([&](const cf::TeamRank& rank) {
          cf::Trainer trainer(small::policy(), cf::Euler{}, cf::differentiable(towards_zero),
                              rank.rank() == 1 ? other : objective, collection(), rank);
          trainer.run(1);
        });
      },
      name, "the same on all ranks");
}

// A layer of which it is known what lives on of its hidden states.
std::vector<c10::weak_intrusive_ptr<c10::TensorImpl>> hidden_states;
std::int64_t living_states() {
  return std::count_if(hidden_states.begin(), hidden_states.end(),
                       [](const auto& state) { return !state.expired(); });
}
struct WatchedImpl : torch::nn::Cloneable<WatchedImpl> {
  WatchedImpl() { reset(); }
  void reset() override {
    in_ = register_parameter("in", at::linspace(-1, 1, 6).reshape({2, 3}).clone());
    out_ = register_parameter("out", at::linspace(1, -1, 6).reshape({3, 2}).clone());
  }
  Tensor forward(const Tensor& x, const Tensor&) {
    const Tensor hidden = x.matmul(in_).tanh();
    hidden_states.emplace_back(hidden.getIntrusivePtr());
    return hidden.matmul(out_);
  }
  std::vector<std::int64_t> sample_shape() const { return {2}; }

 private:
  Tensor in_, out_;
};
TORCH_MODULE(Watched);

// The weights behind an epoch, and how many hidden states lived when the reward was asked.
std::pair<Tensor, std::int64_t> watched(bool recompute) {
  std::int64_t living = 0;
  hidden_states.clear();
  const auto reward = cf::differentiable([&](const Tensor& x0) {
    if (x0.requires_grad()) living = living_states();
    return towards_zero(x0);
  });
  cf::Trainer trainer(cf::SnapshotPolicy(Watched{}), cf::Euler{}, reward,
                      cf::DraftK<>{.last_steps = 4, .recompute = recompute}, collection(),
                      plain_descent());
  trainer.run_epoch();
  CHECK(trainer.evaluations().forward == 16 * (5 + (recompute ? 8 : 4)));
  CHECK(trainer.evaluations().backward == 16 * 4);
  return {weights_of(trainer.policy()), living};
}

}  // namespace

TEST_CASE("the gradient of a reward raises it, the same in every run of a seed") {
  auto trainer = ascending(cf::Refl{.last_steps = 3});
  const double before = trainer.evaluate().reward;
  const cf::RunReport run = trainer.run(45);
  const double after = trainer.evaluate().reward;
  CHECK(after > before + 0.05);
  CHECK(run.last.find("loss/refl_reward").has_value());
  CHECK(run.last.gradient_steps == 45);
  CHECK(trainer.evaluations().backward == 45 * 16);
  auto again = ascending(cf::Refl{.last_steps = 3});
  again.run(45);
  CHECK(again.evaluate().reward == after);
  auto other = ascending(cf::Refl{.last_steps = 3}, 8);
  other.run(45);
  CHECK(other.evaluate().reward != after);
}

TEST_CASE("a term on recorded states has the gradient of the whole chain") {
  const cf::TimeGrid grid = collection().grid;
  const auto close = [](const Tensor& a, const Tensor& b) {
    CHECK(b.norm().item<double>() > 1e-3);
    CHECK(relative_distance(a, b) < 1e-3);
  };
  const cf::Refl refl{.last_steps = 5};
  close(gradient_of(refl, plain_descent()), gradient_of_chain([&](auto& v, const Tensor& x) {
          return cf::refl_x0(v, x, grid, steps_of(refl)[0]);
        }));
  for (const std::size_t last : {1, 3, 5}) {
    close(gradient_of(cf::DraftK<>{.last_steps = last}, plain_descent()),
          gradient_of_chain([&](auto& v, const Tensor& x) {
            cf::Generator unused = cf::seeded(0);
            return cf::draft_k_x0(cf::Euler{}, v, x, grid, last, unused);
          }));
  }
  close(gradient_of(cf::DraftLv{.copies = 0}, plain_descent()),
        gradient_of(cf::DraftK<>{.last_steps = 1}, plain_descent()));
  const cf::DrTune drtune{.train_steps = 2, .stop_share = 1};
  close(gradient_of(drtune, plain_descent()), gradient_of_chain([&](auto& v, const Tensor& x) {
          const auto steps = steps_of(drtune);
          return cf::drtune_x0(v, x, grid, steps, steps.back());
        }));
}

TEST_CASE("the gradient of a reward adds up with that of other terms") {
  const auto of = [](const auto& objective) { return gradient_of(objective, plain_descent()); };
  const Tensor draft = of(cf::DraftK<>{.last_steps = 2}), match = of(cf::FlowMatching{});
  CHECK(relative_distance(of(cf::DraftK<>{.last_steps = 2} + 0.1 * cf::FlowMatching{}),
                          draft + 0.1 * match) < 1e-3);
  const Tensor refl = of(cf::Refl{.last_steps = 1});
  CHECK(relative_distance(of(3 * cf::Refl{.last_steps = 1} + cf::DraftK<>{.last_steps = 2}),
                          3 * refl + draft) < 1e-3);
}

TEST_CASE("beside a policy gradient both kinds of records are kept") {
  using Both = decltype(cf::Grpo{} + cf::DraftK<>{});
  static_assert(std::is_same_v<cf::RecordOf<Both>,
                               cf::Recorded<cf::RecordedSteps<false>, cf::RecordedPaths>>);
  cf::Collection groups = collection();
  groups.group_size = 2;
  const auto weights = [&](const auto& objective) {
    cf::Trainer trainer(small::policy(), cf::FlowSde{}, cf::differentiable(towards_zero), objective,
                        groups, plain_descent());
    trainer.run_epoch();
    return weights_of(trainer.policy()) - first_weights();
  };
  const Tensor apart = weights(cf::Grpo{}) + weights(cf::DraftK<>{.last_steps = 2});
  CHECK(relative_distance(weights(cf::Grpo{} + cf::DraftK<>{.last_steps = 2}), apart) < 1e-3);
}

TEST_CASE("a reward above the clip teaches nothing") {
  auto trainer = ascending(cf::DraftK<>{.clip = -1e6});
  const cf::RunReport run = trainer.run(2);
  CHECK(run.last.find("loss").value_or(1) == 0);
  CHECK(relative_distance(weights_of(trainer.policy()), first_weights()) < 1e-4);
}

TEST_CASE("a recomputed chain has the same gradient and keeps no activations") {
  const auto [kept, living] = watched(false);
  const auto [again, dead] = watched(true);
  CHECK(living == 4);
  CHECK(dead == 0);
  CHECK(relative_distance(again, kept) < 1e-6);
}

TEST_CASE("so does one of adapters, with other roles in between") {
  const auto weights = [](bool recompute) {
    cf::Collection few = collection();
    few.prompts_per_epoch = 3;
    few.group_size = 2;
    few.sample_shape = {4, 4, 4};
    cf::Trainer trainer(cf::LoraPolicy(tiny::mmdit(), {.rank = 2}), cf::Euler{},
                        cf::differentiable([](const Tensor& x0) {
                          return -(x0 - 0.5).square().flatten(1).mean(1);
                        }),
                        cf::DraftK<>{.last_steps = 3, .recompute = recompute} + cf::VelocityKl{},
                        cf::PromptRows(tiny::condition(3)), few, plain_descent());
    const Tensor before = weights_of(trainer.policy());
    trainer.run(2);
    CHECK(relative_distance(weights_of(trainer.policy()), before) > 1e-6);
    return weights_of(trainer.policy());
  };
  CHECK(relative_distance(weights(true), weights(false)) < 1e-6);
}

TEST_CASE("two ranks climb as one does") {
  const auto run = [](const auto&... communicator) {
    cf::Trainer trainer(small::policy(), cf::Euler{}, cf::differentiable(towards_zero),
                        cf::DrTune{.train_steps = 2} + cf::DraftLv{}, collection(), plain_descent(),
                        cf::Seed{3}, communicator...);
    trainer.run(2);
    return weights_of(trainer.policy());
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
  const cf::DrTune term{.train_steps = 1, .stop_share = 0.58};
  const cf::TimeGrid grid = cf::uniform_grid(50);
  std::size_t first = 50;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    cf::Generator generator = cf::seeded(seed);
    first = std::min(first, term.steps(grid, generator).back());
  }
  CHECK(first == 50 - 29);
}

TEST_CASE("ranks agree in how they climb") {
  check_disagreement("last_steps", cf::Refl{.last_steps = 3}, cf::Refl{.last_steps = 4});
  check_disagreement("clip", cf::Refl{.last_steps = 3, .clip = 1},
                     cf::Refl{.last_steps = 3, .clip = 2});
  check_disagreement("last_steps", cf::DraftK<>{.last_steps = 1}, cf::DraftK<>{.last_steps = 2});
  check_disagreement("copies", cf::DraftLv{.copies = 1}, cf::DraftLv{.copies = 2});
  check_disagreement("train_steps", cf::DrTune{.train_steps = 1}, cf::DrTune{.train_steps = 2});
  check_disagreement("stop_share", cf::DrTune{.stop_share = 0.4}, cf::DrTune{.stop_share = 0.5});
}

TEST_CASE("options of the last steps are refused out of range") {
  const auto runs = [](const auto& objective) { ascending(objective).run_epoch(); };
  laws::check_error([&] { runs(cf::DraftK<>{.last_steps = 6}); }, "last_steps", "of the grid");
  laws::check_error([&] { runs(cf::Refl{.last_steps = 6}); }, "last_steps", "of the grid");
  laws::check_error([&] { runs(cf::DraftLv{.copies = -1}); }, "copies", "at least 0");
  laws::check_error([&] { runs(cf::DrTune{.train_steps = 0}); }, "train_steps", "at least 1");
  laws::check_error([&] { runs(cf::DrTune{.stop_share = 0}); }, "stop_share", "(0, 1]");
}

TEST_CASE("the gradient of several rewards is that of their weighted sum as they are") {
  using namespace cf::literals;
  const auto bag = [](cf::Normalisation normalisation) {
    return cf::rewards(
        "zero"_r = cf::differentiable(towards_zero),
        "goal"_r = cf::weighted(cf::differentiable(towards_goal), -0.5, normalisation));
  };
  const Tensor x0 = laws::floats({3, 2}).requires_grad_();
  const Tensor sum = bag(cf::Normalisation::none).differentiable(x0, cf::Unconditional{});
  CHECK(relative_distance(sum, towards_zero(x0) - 0.5 * towards_goal(x0)) < 1e-6);
  CHECK(sum.requires_grad());
  laws::check_error([&] { bag(cf::Normalisation::rank).differentiable(x0, cf::Unconditional{}); },
                    "normalisation", "none");
}

TEST_CASE("a resumed climb has the bits of one that was never stopped") {
  const TemporaryDirectory folder;
  const cf::DraftK<> term{.last_steps = 3};
  auto whole = ascending(term), first = ascending(term);
  whole.run(4);
  first.run(2, cf::Checkpoint{.directory = folder.path(), .every = 100});
  auto second = ascending(term, 8);  // another seed: the checkpoint's is taken
  REQUIRE(cf::resume(second, folder.path()));
  CHECK(second.epoch() == 2);
  second.run(4);
  CHECK(small::same_bits(small::state_of(second), small::state_of(whole)));
  CHECK(second.evaluate().reward == whole.evaluate().reward);
}
