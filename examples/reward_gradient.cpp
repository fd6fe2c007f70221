// A reward that differentiates: its gradient through the last steps of the chain trains the policy.
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/objective/reward_gradient.hpp>
#include <contraflow/toy/tasks.hpp>

namespace cf = contraflow;
using cf::Tensor;

int main() {
  at::set_num_threads(1);  // what so small a network takes
  auto model = cf::MlpVelocity({.dimension = 2, .width = 64, .depth = 2});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 500});
  //! [reward]
  // Computed in autograd, and it says so; any other reward is refused here.
  const auto reward = cf::differentiable([](const Tensor& x0) {
    const Tensor goal = at::tensor({2.0F, 0.0F});
    return -(x0 - goal).square().mean(1);
  });
  //! [reward]
  //! [trainer]
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(model), cf::Euler{}, reward,
      cf::DraftK<>{.last_steps = 3} + 0.02 * cf::VelocityKl{},  // which keeps it near its start
      cf::Collection{.prompts_per_epoch = 16, .group_size = 4, .grid = cf::uniform_grid(10)},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  //! [trainer]
  const double before = trainer.evaluate().reward;
  const cf::RunReport run = trainer.run(100);
  const double after = trainer.evaluate().reward;
  std::cout << "reward before: " << before << ", after: " << after
            << ", of the last epoch: " << run.last.find("reward/mean").value_or(0) << '\n';
  return after > before + 0.5 ? 0 : 1;
}
