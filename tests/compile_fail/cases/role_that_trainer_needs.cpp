// expect: this objective needs the velocity of the role `old`
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

// A policy of one role.
struct Policy : cf::SnapshotPolicy<cf::MlpVelocity> {
  using cf::SnapshotPolicy<cf::MlpVelocity>::SnapshotPolicy;
  using Available = cf::Roles<cf::Role::current>;
};

#ifdef POSITIVE_CONTROL
using Objective = cf::FlowMatching;
#else
using Objective = cf::Nft;
#endif

void run() {
  auto trainer = cf::Trainer(Policy(cf::MlpVelocity(cf::MlpOptions{})), cf::Euler{},
                             cf::toy::InModes{{1, 4}}, Objective{});
  trainer.run(1);
}
