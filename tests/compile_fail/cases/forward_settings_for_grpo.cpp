// expect: settings of the ForwardProcess mean nothing to an objective
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Objective = cf::Dpo;
#else
using Objective = cf::Grpo;
#endif

void run() {
  auto trainer =
      cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::FlowSde{}, cf::toy::InModes{{1, 4}},
                  Objective{}, cf::ForwardProcess{.shared_noise = true});
  trainer.run(1);
}
