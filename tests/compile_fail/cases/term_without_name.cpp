// expect: a Term must have `static constexpr std::string_view name`
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

struct Drift {
  using Velocities = cf::Roles<cf::Role::current>;
  using Points = cf::ForwardProcess;
#ifdef POSITIVE_CONTROL
  static constexpr std::string_view name = "drift";
#endif
  template <class Batch>
  cf::Tensor loss(const Batch& batch, const cf::Tensor&, cf::Statistics&) const {
    return cf::mean_per_sample(cf::velocity<cf::Role::current>(batch));
  }
};

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::Euler{},
                             cf::toy::InModes{{1, 4}}, cf::Nft{} + 0.1 * Drift{});
  trainer.run(1);
}
