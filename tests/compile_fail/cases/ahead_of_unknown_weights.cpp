// expect: Ahead keeps the weights that collect: give the policy
#include <contraflow/model/mlp.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/policy/snapshot_policy.hpp>
#include <contraflow/reward/analytic.hpp>
#include <contraflow/solver/runge_kutta.hpp>
#include <contraflow/train/trainer.hpp>

namespace cf = contraflow;

// Answers for all roles, and gives nobody their weights.
struct Closed : private cf::SnapshotPolicy<cf::MlpVelocity> {
  using Base = cf::SnapshotPolicy<cf::MlpVelocity>;
  using Base::after_epoch, Base::after_gradient_step, Base::load, Base::sample_shape, Base::state;
  using Base::Available, Base::Base, Base::velocity, Base::parameters, Base::keep;
#ifdef POSITIVE_CONTROL
  using Base::tensors_of;
#endif
};

inline auto trainer() {
  return cf::Trainer(Closed(cf::MlpVelocity({})), cf::Euler{},
                     cf::LinearReward{at::tensor({1.0F, 0.25F})}, cf::Nft{}, cf::Ahead{1});
}
