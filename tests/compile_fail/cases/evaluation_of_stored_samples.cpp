// expect: an OfflineTrainer neither collects nor evaluates
#include <contraflow/contraflow.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Settings = cf::Learning;
#else
using Settings = cf::EvaluationOptions;
#endif

void run(const cf::StoredSamples& samples) {
  auto trainer =
      cf::OfflineTrainer(cf::SnapshotPolicy(cf::MlpVelocity({})), samples, cf::Nft{}, Settings{});
  trainer.run(1);
}
