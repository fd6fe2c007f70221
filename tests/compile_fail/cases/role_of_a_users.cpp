// expect: give the policy that role by contraflow::with_role<role>(policy, model)
#include <contraflow/contraflow.hpp>
#include <contraflow/policy/with_role.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

inline constexpr cf::Role teacher{"teacher"};

struct Towards {
  using Velocities = cf::Roles<cf::Role::current, teacher>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "teacher";
  template <class Batch>
  cf::Tensor loss(const Batch& batch, const cf::Tensor&, cf::Statistics&) const {
    return cf::mean_per_sample(
        (cf::velocity<cf::Role::current>(batch) - cf::velocity<teacher>(batch)).square());
  }
};

void run() {
  cf::SnapshotPolicy policy(cf::MlpVelocity({}));
#ifdef POSITIVE_CONTROL
  auto taught = cf::with_role<teacher>(policy, cf::MlpVelocity({}));
#else
  auto taught = policy;
#endif
  auto trainer =
      cf::Trainer(taught, cf::Euler{}, cf::toy::InModes{{1, 4}}, cf::Nft{} + 0.1 * Towards{});
  trainer.run(1);
}
