// A judge that compares two samples: its win rates within a group, beside a reward of one sample.
#include <iostream>

#include <contraflow/advantage/per_reward.hpp>
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/tasks.hpp>

namespace cf = contraflow;
using cf::Tensor;
using namespace cf::literals;

//! [judge]
/// Prefers the one further to the right, and cannot tell small differences: 1, 2 or 0 a pair.
Tensor further_right(const Tensor& first, const Tensor& second) {
  const Tensor by = first.select(1, 0) - second.select(1, 0);
  return (by > 0.1).to(at::kLong) + 2 * (by < -0.1).to(at::kLong);
}
//! [judge]

int main() {
  at::set_num_threads(1);  // what so small a network takes
  auto model = cf::MlpVelocity({.dimension = 2, .width = 64, .depth = 2});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 500});
  //! [bag]
  const auto right = [](const Tensor& x0) { return x0.select(1, 0); };
  const auto small = [](const Tensor& x0) { return -x0.square().mean(1); };
  const auto bag = cf::rewards("judge"_r = cf::PairwiseReward(further_right),
                               "rank"_r = cf::weighted(cf::RankReward(right), 0.5),
                               "small"_r = cf::weighted(small, 0.1));
  //! [bag]
  //! [trainer]
  // Each reward is compared by itself in its group: none wins by its scale.
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(model), cf::DpmSolver<2>{}, bag, cf::Nft{}, cf::Gdpo{},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 12, .grid = cf::uniform_grid(10)},
      cf::Learning{.gradient_steps = 2},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  //! [trainer]
  const auto mean_right = [&] { return right(trainer.sample(256)).mean().item<double>(); };
  const double before = mean_right();
  const cf::RunReport run = trainer.run(30);
  const double after = mean_right();
  std::cout << "to the right before: " << before << ", after: " << after
            << ", mean win rate: " << run.last.find("score/judge").value_or(0) << '\n';
  return after > before + 0.3 ? 0 : 1;
}
