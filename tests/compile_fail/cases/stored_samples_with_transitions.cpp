// expect: stored samples have no transitions
#include <contraflow/contraflow.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Objective = cf::Nft;
#else
using Objective = cf::Grpo;
#endif

void run(const cf::StoredSamples& samples) {
  auto trainer = cf::OfflineTrainer(cf::SnapshotPolicy(cf::MlpVelocity({})), samples, Objective{});
  trainer.run(1);
}
