// expect: gradient_steps
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Settings = cf::Learning;
#else
using Settings = cf::Collection;
#endif

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::Euler{},
                             cf::toy::InModes{{1, 4}}, cf::Nft{}, Settings{.gradient_steps = 2});
  trainer.run(1);
}
