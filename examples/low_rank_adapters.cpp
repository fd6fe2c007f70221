// Training low-rank adapters on a base that is kept once: what a model too large for clones takes.
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

int main() {
  at::set_num_threads(1);  // what so small a network takes
  auto model = cf::MlpVelocity({.dimension = 2, .width = 128, .depth = 3});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 1000});
  //! [adapters]
  auto policy = cf::LoraPolicy(model, cf::LoraOptions{.rank = 8, .alpha = 16});
  auto trainer = cf::Trainer(
      std::move(policy), cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}},
      cf::Nft{} + 0.01 * cf::VelocityKl{},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Learning{.gradient_steps = 2},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 3e-3})});
  //! [adapters]
  const double before = trainer.evaluate().reward;
  trainer.run(30);
  const double after = trainer.evaluate().reward;
  std::int64_t trained = 0;
  for (const cf::Tensor& weight : trainer.policy().parameters()) trained += weight.numel();
  std::cout << "weights trained: " << trained << "; reward before: " << before
            << ", after: " << after << '\n';
  return after > before + 0.1 ? 0 : 1;
}
