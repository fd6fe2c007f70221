// expect: this objective trains on transitions with log-densities, and this solver makes none
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Solver = cf::FlowSde;
#else
using Solver = cf::DpmSolver<2>;
#endif

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), Solver{},
                             cf::toy::InModes{{1, 4}}, cf::Grpo{});
  trainer.run(1);
}
