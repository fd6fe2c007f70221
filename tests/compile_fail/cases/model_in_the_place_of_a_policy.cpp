// expect: a trainer trains a Policy, and this is a model: wrap it
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

void run() {
  const cf::MlpVelocity model({});
#ifdef POSITIVE_CONTROL
  auto trainer =
      cf::Trainer(cf::SnapshotPolicy(model), cf::Euler{}, cf::toy::InModes{{1, 4}}, cf::Nft{});
#else
  auto trainer = cf::Trainer(model, cf::Euler{}, cf::toy::InModes{{1, 4}}, cf::Nft{});
#endif
  trainer.run(1);
}
