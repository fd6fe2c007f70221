// Noise in a few steps only: Flow-GRPO-Fast and MixGRPO.
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

int main() {
  at::set_num_threads(1);  // what so small a network takes
  //! [window]
  const cf::Window<cf::FlowSde, cf::DpmSolver<2>> fast{
      .sde = cf::FlowSde{.noise_level = 0.7}, .place = cf::WindowPlace{.first = 1, .length = 2}};
  const cf::Window<cf::FlowSde, cf::Euler> sliding{
      .place = cf::WindowPlace{.length = 2, .slide_every = 25, .slide_until = 7}};
  //! [window]
  auto model = cf::MlpVelocity({.dimension = 2, .width = 64, .depth = 2});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 500});
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(model), fast, cf::toy::InModes{{1, 4}}, cf::Grpo{.clip_range = 0.2},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Learning{.gradient_steps = 4},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 3e-3})});
  const double before = trainer.evaluate().reward;
  trainer.run(30);
  const double after = trainer.evaluate().reward;
  std::cout << "reward before: " << before << ", after: " << after << "; in epoch 50 the other "
            << "window begins at step " << sliding.at_epoch(50).place.first << '\n';
  return after > before + 0.05 ? 0 : 1;
}
