// NFT and FlowGRPO are two objectives: one function trains with either, or with one of your own.
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

/// Mean reward after 30 epochs, by any solver and objective.
template <class Solver, class Objective>
double trained(const cf::MlpVelocity& base, const Solver& solver, const Objective& objective) {
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(cf::clone_of(base)), solver, cf::toy::InModes{{1, 4}}, objective,
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Learning{.gradient_steps = 2},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  trainer.run(30);
  return trainer.evaluate().reward;
}

double by_nft(const cf::MlpVelocity& base) {
  //! [nft]
  auto objective = cf::Nft{.beta = 1} + 1e-4 * cf::VelocityKl{};
  auto solver = cf::DpmSolver<2>{};
  //! [nft]
  return trained(base, solver, objective);
}

double by_flow_grpo(const cf::MlpVelocity& base) {
  //! [grpo]
  auto objective = cf::Grpo{.clip_range = 0.2} + 0.04 * cf::TransitionKl{};
  auto solver = cf::FlowSde{.noise_level = 0.7};
  //! [grpo]
  return trained(base, solver, objective);
}

int main() {
  at::set_num_threads(1);  // what so small a network takes
  auto base = cf::MlpVelocity({.dimension = 2, .width = 128, .depth = 3});
  cf::pretrain(base, cf::toy::ring(), cf::Pretraining{.steps = 1000});
  const double nft = by_nft(base), flow_grpo = by_flow_grpo(base);
  std::cout << "share on two modes of the ring, 0.25 at the start\n"
            << "  NFT       " << nft << "\n  FlowGRPO  " << flow_grpo << '\n';
  return nft > 0.5 && flow_grpo > 0.5 ? 0 : 1;
}
