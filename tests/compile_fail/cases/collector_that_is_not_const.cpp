// expect: its `collect(context)` must be const
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

struct Stored {
  template <class P, class Prompts>
  cf::Rollout<cf::NothingRecorded> collect(const cf::CollectorContext<P, Prompts>&)
#ifdef POSITIVE_CONTROL
      const
#endif
  {
    return {};
  }
};

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), Stored{},
                             cf::toy::InModes{{1, 4}}, cf::Nft{});
  trainer.run(1);
}
