// expect: this objective is given states of the path from noise to data, and a Sampler has none
#include <contraflow/contraflow.hpp>
#include <contraflow/objective/reward_gradient.hpp>

namespace cf = contraflow;

void run() {
  const auto reward = cf::differentiable([](const cf::Tensor& x0) { return -x0.square().mean(1); });
#ifdef POSITIVE_CONTROL
  const cf::Euler solver;
#else
  const auto follow = [](auto& velocity, const cf::Tensor& noise, cf::Generator&) {
    return noise - velocity(noise, 1.0);
  };
  const cf::BlackBox solver(follow);
#endif
  cf::Trainer trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), solver, reward, cf::DraftK<>{});
  trainer.run(1);
}
