// expect: a trainer takes each kind of settings once
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Other = cf::Learning;
#else
using Other = cf::Seed;
#endif

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::Euler{},
                             cf::toy::InModes{{1, 4}}, cf::Nft{}, cf::Seed{1}, Other{});
  trainer.run(1);
}
