// Every objective on the ring, from one pre-trained network: what learns, learns.

#include <functional>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/objective/regression.hpp>
#include <contraflow/solver/black_box.hpp>
#include <contraflow/solver/window.hpp>
#include <contraflow/toy/rewards.hpp>
#include <contraflow/train/offline.hpp>
#include <contraflow/train/pretrain.hpp>

#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Tensor;

namespace {

// Threads only wait for each other on tensors as small as these.
const bool one_thread = (at::set_num_threads(1), true);

// A network that draws the ring, about a quarter of its samples in the rewarded modes.
const cf::MlpVelocity& pretrained() {
  static const cf::MlpVelocity model = [] {
    cf::MlpVelocity fresh({.width = 64, .depth = 3});
    cf::pretrain(fresh, cf::toy::ring(), cf::Pretraining{.steps = 700, .batch = 256},
                 cf::Optimization{.optimizer = cf::adamw({.learning_rate = 4e-3})});
    return fresh;
  }();
  return model;
}

small::Options ring_options(double rate) {
  small::Options options;
  options.collection.prompts_per_epoch = 8;
  options.collection.group_size = 16;
  options.collection.grid = cf::uniform_grid(8);
  options.optimization.optimizer = cf::adamw({.learning_rate = rate});
  options.evaluation.samples = 600;
  options.evaluation.grid = cf::uniform_grid(20);
  return options;
}

struct Gain {
  double before, after;
};

// The reward of the averaged weights before and after some epochs.
template <class S, class O>
Gain gain(const S& solver, const O& objective, std::int64_t epochs,
          small::Options options = ring_options(2e-3)) {
  auto trainer = small::trainer(cf::SnapshotPolicy(cf::clone_of(pretrained())), solver,
                                cf::toy::InModes{{1, 4}}, objective, options);
  Gain result{trainer.evaluate().reward, 0};
  trainer.run(epochs);
  REQUIRE(small::is_finite(small::state_of(trainer)));
  result.after = trainer.evaluate().reward;
  INFO("from " << result.before << " to " << result.after);
  CHECK(result.after > result.before);
  return result;
}

}  // namespace

TEST_CASE("a pre-trained network draws the ring") {
  auto trainer = small::trainer(cf::SnapshotPolicy(cf::clone_of(pretrained())), cf::Euler{},
                                cf::toy::InModes{{1, 4}}, cf::Nft{}, ring_options(1e-3));
  const Tensor x0 = trainer.evaluate().x0;
  const Tensor near = cf::toy::InModes{{0, 1, 2, 3, 4, 5, 6, 7}}(x0);
  CHECK(near.mean().item<double>() > 0.7);
  const double reward = trainer.evaluate().reward;
  CHECK(reward > 0.1);
  CHECK(reward < 0.4);
}

TEST_CASE("NFT learns the ring in both of its forms") {
  CHECK(gain(cf::DpmSolver<2>{}, cf::Nft{} + 1e-4 * cf::VelocityKl{}, 40).after > 0.7);
  CHECK(gain(cf::DpmSolver<2>{}, cf::PaperNft{}, 60).after > 0.5);
}

TEST_CASE("GRPO learns the ring with every SDE") {
  small::Options options = ring_options(1e-3);
  options.learning.gradient_steps = 2;
  const cf::Grpo grpo{.clip_range = 1e-2};
  CHECK(gain(cf::FlowSde{}, grpo + 0.01 * cf::TransitionKl{}, 25, options).after > 0.4);
  gain(cf::DanceSde{.noise_level = 0.5}, grpo, 15, options);
  gain(cf::Cps{.noise_level = 0.5}, grpo, 15, options);
  gain(cf::Ddim{.eta = 0.7}, grpo, 15, options);
  gain(cf::FlowSde{}, cf::GrpoGuard{.clip_range = 1e-2}, 15, options);
  gain(cf::Window<>{.place = {.first = 0, .length = 3}}, grpo, 15, options);
  gain(
      cf::Window<cf::FlowSde, cf::DpmSolver<2>>{
          .place = {.first = 0, .length = 3, .slide_every = 3, .slide_until = 4}},
      grpo, 15, options);
}

TEST_CASE("the other objectives learn the ring") {
  gain(cf::DpmSolver<2>{}, cf::Awm{}, 15);
  gain(cf::DpmSolver<2>{}, cf::Dpo{.beta = 20}, 15);
  gain(cf::DpmSolver<2>{}, cf::RewardWeighted{.temperature = 0.5}, 15);
  gain(cf::DpmSolver<2>{}, cf::BestOfGroup{}, 15);
}

TEST_CASE("NFT learns from a sampler that is a black box") {
  const cf::BlackBox sampler([](auto& velocity, const Tensor& noise, cf::Generator& generator) {
    return cf::integrate(cf::Midpoint{}, velocity, noise, cf::uniform_grid(5), generator);
  });
  CHECK(gain(sampler, cf::Nft{}, 15).after > 0.35);
}

TEST_CASE("NFT learns from good and bad examples") {
  const auto modes = [](std::vector<std::int64_t> ids) {
    const Tensor means = cf::toy::ring().means().index_select(0, at::tensor(ids, at::kLong));
    cf::Generator generator = cf::seeded(1);
    return cf::toy::Mixture(means, 0.15).sample(100, generator);
  };
  cf::OfflineTrainer trainer(cf::SnapshotPolicy(cf::clone_of(pretrained())),
                             cf::good_and_bad(modes({1, 4}), modes({0, 2, 3, 5, 6, 7})),
                             cf::Nft{.optimality = {.clip = 1}}, cf::Learning{.gradient_steps = 2},
                             cf::Optimization{.optimizer = cf::adamw({.learning_rate = 2e-3})});
  trainer.run(60);
  const auto velocity = [&](const Tensor& x, double sigma) {
    return trainer.policy().velocity(cf::Role::average, x, at::full({x.size(0)}, sigma),
                                     cf::Unconditional{});
  };
  cf::Generator generator = cf::seeded(3);
  const Tensor x0 = cf::integrate(cf::Euler{}, velocity, cf::normal({600, 2}, generator),
                                  cf::uniform_grid(20), generator);
  CHECK(cf::toy::InModes{{1, 4}}(x0).mean().item<double>() > 0.5);
}
