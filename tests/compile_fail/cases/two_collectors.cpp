// expect: the terms of this sum are defined relative to different roles that collect
#include <contraflow/contraflow.hpp>
#include <contraflow/objective/crd.hpp>

namespace cf = contraflow;

void run() {
#ifdef POSITIVE_CONTROL
  const auto objective = cf::Crd{} + 0.1 * cf::OptimalityKl{};
#else
  const auto objective = cf::Crd{} + cf::Nft{};
#endif
  cf::Trainer trainer(
      cf::SnapshotPolicy(cf::MlpVelocity({})), cf::Euler{},
      [](const cf::Tensor& x0) { return x0.square().mean(1); }, objective);
  trainer.run(1);
}
