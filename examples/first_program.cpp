// A small flow learns a ring of eight Gaussians, and is taught, by reward alone, to stay on two.
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/observe/progress_bar.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

int main() {
  at::set_num_threads(1);  // what so small a network takes
  //! [pretrain]
  auto model = cf::MlpVelocity({.dimension = 2, .width = 128, .depth = 3});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 1000});
  //! [pretrain]

  //! [nft]
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(model), cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}},
      cf::Nft{.beta = 1} + 1e-4 * cf::VelocityKl{},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Learning{.gradient_steps = 2},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  //! [nft]
  //! [run]
  const double before = trainer.evaluate().reward;
  trainer.run(30, cf::ProgressBar{});
  const double after = trainer.evaluate().reward;
  std::cout << "share on the two: " << before << " before, " << after << " after\n";
  //! [run]
  return after > 0.5 ? 0 : 1;
}
