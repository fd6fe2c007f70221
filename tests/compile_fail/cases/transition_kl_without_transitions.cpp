// expect: use a StochasticSolver such as FlowSde, DanceSde, Cps, Ddim or Window
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Kl = cf::VelocityKl;
#else
using Kl = cf::TransitionKl;
#endif

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::Euler{},
                             cf::toy::InModes{{1, 4}}, cf::Nft{} + 0.01 * Kl{});
  trainer.run(1);
}
