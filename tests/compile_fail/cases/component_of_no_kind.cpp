// expect: a component of a Trainer must be a PromptSource, an Advantage or TrainingTimes
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Component = cf::LeaveOneOut;
#else
struct Component {};
#endif

void run() {
  auto trainer =
      cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::Euler{}, cf::toy::InModes{{1, 4}},
                  cf::Nft{}, cf::TrainerOptions{}, Component{});
  trainer.run(1);
}
