// expect: this term uses the velocity of a role that it did not declare
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

struct Drift {
#ifdef POSITIVE_CONTROL
  using Velocities = cf::Roles<cf::Role::current, cf::Role::reference>;
#else
  using Velocities = cf::Roles<cf::Role::current>;
#endif
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "drift";
  template <class Batch>
  cf::Tensor loss(const Batch& batch, const cf::Tensor&, cf::Statistics&) const {
    return cf::mean_per_sample(cf::velocity<cf::Role::current>(batch) -
                               cf::velocity<cf::Role::reference>(batch));
  }
};

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::Euler{},
                             cf::toy::InModes{{1, 4}}, cf::Nft{} + 0.1 * Drift{});
  trainer.run(1);
}
