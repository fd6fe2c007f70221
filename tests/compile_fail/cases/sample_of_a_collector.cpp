// expect: sample() follows the solver of a trainer, and this one has a Collector
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

struct Stored {
  template <class P, class Prompts>
  cf::Rollout<cf::NothingRecorded> collect(const cf::CollectorContext<P, Prompts>&) const {
    return {};
  }
};

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), Stored{},
                             cf::toy::InModes{{1, 4}}, cf::Nft{});
#ifdef POSITIVE_CONTROL
  trainer.evaluate();
#else
  trainer.sample(4);
#endif
}
