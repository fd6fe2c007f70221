// expect: this objective trains on the gradient of the reward, and this Reward does not say that it
// has one
#include <contraflow/contraflow.hpp>
#include <contraflow/objective/reward_gradient.hpp>

namespace cf = contraflow;

void run() {
  const auto black_box = [](const cf::Tensor& x0) { return x0.square().mean(1); };
#ifdef POSITIVE_CONTROL
  const auto reward = cf::differentiable(black_box);
#else
  const auto reward = black_box;
#endif
  cf::Trainer trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::Euler{}, reward,
                      cf::DraftK<>{.last_steps = 2} + 0.1 * cf::VelocityKl{});
  trainer.run(1);
}
