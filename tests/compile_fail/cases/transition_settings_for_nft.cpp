// expect: settings of RecordedTransitions mean nothing to an objective
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Objective = cf::Grpo;
#else
using Objective = cf::Nft;
#endif

void run() {
  auto trainer =
      cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::FlowSde{}, cf::toy::InModes{{1, 4}},
                  Objective{}, cf::RecordedTransitions{.per_sample = 2});
  trainer.run(1);
}
