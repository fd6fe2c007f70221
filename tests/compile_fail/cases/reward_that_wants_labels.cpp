// expect: One that takes labels or captions needs prompts: give the trainer some
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

void run() {
  const auto reward = [](const cf::Tensor& x0, const cf::Tensor& label) {
    return x0.select(1, 0) * label;
  };
  cf::SnapshotPolicy policy(
#ifdef POSITIVE_CONTROL
      cf::MlpVelocity({.classes = 4}));
  auto trainer = cf::Trainer(policy, cf::Euler{}, reward, cf::Nft{}, cf::class_prompts(4));
#else
      cf::MlpVelocity({}));
  auto trainer = cf::Trainer(policy, cf::Euler{}, reward, cf::Nft{});
#endif
  trainer.run(1);
}
