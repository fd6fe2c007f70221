// expect: a RolloutCorrection means nothing to an objective that looks at no transitions
#include <contraflow/contraflow.hpp>

namespace cf = contraflow;

void run() {
  const auto reward = [](const cf::Tensor& x0) { return x0.square().mean(1); };
#ifdef POSITIVE_CONTROL
  const cf::Grpo objective;
#else
  const cf::Nft objective;
#endif
  cf::Trainer trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::FlowSde{}, reward, objective,
                      cf::Ahead{1}, cf::RolloutCorrection{});
  trainer.run(1);
}
