// The composition of the front page: NFT, and the change of two lines that makes it FlowGRPO.

#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/progress_bar.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using namespace cf::literals;

namespace {

/// A flow to the eight Gaussians of the ring.
cf::MlpVelocity pretrained() {
  //! [pretrain]
  auto model = cf::MlpVelocity({.dimension = 2, .width = 128, .depth = 3});
  cf::pretrain(model, cf::toy::ring(), {.steps = 1000});
  //! [pretrain]
  return model;
}

/// Mean reward of the averaged weights.
double trained_by_nft(cf::MlpVelocity model) {
  //! [nft]
  auto policy = cf::SnapshotPolicy(model, {.old_decay = cf::Ramp{.rate = 0.001, .max = 0.5}});
  auto objective = cf::Nft{.beta = 1.0} + 1e-4 * cf::VelocityKl{};
  auto trainer = cf::Trainer(
      policy, cf::DpmSolver<2>{}, cf::rewards("target"_r = cf::toy::InModes{{1, 4}}), objective,
      {.prompts_per_epoch = 8,
       .group_size = 24,
       .grid = cf::uniform_grid(10),
       .update = {.gradient_steps = 2, .optimizer = cf::adamw({.learning_rate = 1e-3})}});
  trainer.run(30, cf::ProgressBar{}, cf::JsonLines{"nft.jsonl"});
  //! [nft]
  return trainer.evaluate().reward;
}

double trained_by_flow_grpo(cf::MlpVelocity model) {
  auto policy = cf::SnapshotPolicy(model);
  //! [grpo]
  auto objective = cf::Grpo{.clip_range = 0.2} + 0.04 * cf::TransitionKl{};
  auto solver = cf::FlowSde{.noise_level = 0.7};
  //! [grpo]
  auto trainer = cf::Trainer(
      policy, solver, cf::rewards("target"_r = cf::toy::InModes{{1, 4}}), objective,
      {.prompts_per_epoch = 8,
       .group_size = 24,
       .grid = cf::uniform_grid(10),
       .update = {.gradient_steps = 2, .optimizer = cf::adamw({.learning_rate = 1e-3})}});
  trainer.run(30, cf::ProgressBar{}, cf::JsonLines{"flow_grpo.jsonl"});
  return trainer.evaluate().reward;
}

}  // namespace

int main() {
  at::set_num_threads(1);  // what so small a network takes; more threads only wait for each other
  const cf::MlpVelocity base = pretrained();
  const double nft = trained_by_nft(cf::clone_of(base));
  const double flow_grpo = trained_by_flow_grpo(cf::clone_of(base));
  std::cout << "reward of the ring after 30 epochs, of 0.25 at the start\n"
            << "  NFT       " << nft << "\n  FlowGRPO  " << flow_grpo << '\n';
  return nft > 0.5 && flow_grpo > 0.5 ? 0 : 1;
}
