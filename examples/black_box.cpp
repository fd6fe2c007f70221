// Samples by a sampler of another library: NFT needs to know nothing of how they were made.
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using cf::Tensor;

int main() {
  at::set_num_threads(1);  // what so small a network takes
  auto model = cf::MlpVelocity({.dimension = 2, .width = 64, .depth = 2});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 500});
  //! [black box]
  // It is given the velocity and noise, and returns clean samples: here in eight equal steps.
  const cf::BlackBox sampler([](auto& velocity, const Tensor& noise, cf::Generator&) {
    Tensor x = noise;
    for (int i = 8; i > 0; --i) x = x - velocity(x, i / 8.0) / 8;
    return x;
  });
  auto trainer = cf::Trainer(cf::SnapshotPolicy(model), sampler, cf::toy::InModes{{1, 4}},
                             cf::Nft{}, cf::Collection{.prompts_per_epoch = 8, .group_size = 24},
                             cf::Learning{.gradient_steps = 2},
                             cf::Optimization{.optimizer = cf::adamw({.learning_rate = 3e-3})});
  //! [black box]
  const double before = trainer.evaluate().reward;
  trainer.run(30);
  const double after = trainer.evaluate().reward;
  std::cout << "reward before: " << before << ", after: " << after << '\n';
  return after > before + 0.1 ? 0 : 1;
}
