// expect: the gradient of a reward goes through the path that made a sample, and stored samples
// have none
#include <contraflow/contraflow.hpp>
#include <contraflow/objective/reward_gradient.hpp>

namespace cf = contraflow;

void run(const cf::StoredSamples& samples) {
#ifdef POSITIVE_CONTROL
  const cf::FlowMatching objective;
#else
  const cf::DraftK<> objective;
#endif
  cf::OfflineTrainer trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), samples, objective);
  trainer.run(1);
}
