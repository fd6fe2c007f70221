// expect: a Collector must return a Rollout of what the objective records
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

struct Stored {
  template <class P, class Prompts>
  cf::Rollout<cf::NothingRecorded> collect(const cf::CollectorContext<P, Prompts>&) const {
    return {};
  }
};

#ifdef POSITIVE_CONTROL
using Objective = cf::Nft;
#else
using Objective = cf::Grpo;
#endif

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), Stored{},
                             cf::toy::InModes{{1, 4}}, Objective{});
  trainer.run(1);
}
