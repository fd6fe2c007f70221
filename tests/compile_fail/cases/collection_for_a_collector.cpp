// expect: the settings of a Collection mean nothing to a Collector of your own
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
using Settings = cf::Learning;
#else
using Settings = cf::Collection;
#endif

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), Stored{},
                             cf::toy::InModes{{1, 4}}, cf::Nft{}, Settings{});
  trainer.run(1);
}
