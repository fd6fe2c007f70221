// expect: this trains on the gradient of the reward, and this Reward does not say that it has one
#include <contraflow/contraflow.hpp>
#include <contraflow/train/reward_gradient.hpp>

namespace cf = contraflow;

void run() {
  const auto black_box = [](const cf::Tensor& x0) { return x0.square().mean(1); };
#ifdef POSITIVE_CONTROL
  const auto reward = cf::differentiable(black_box);
#else
  const auto reward = black_box;
#endif
  cf::RewardGradientTrainer trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), reward,
                                    cf::DraftK<>{.last_steps = 2});
  trainer.run(1);
}
