// expect: give the policy that role by contraflow::with_role<role>(policy, model)
#include <contraflow/contraflow.hpp>
#include <contraflow/objective/distillation.hpp>
#include <contraflow/policy/with_role.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

void run() {
  cf::SnapshotPolicy policy(cf::MlpVelocity({}));
#ifdef POSITIVE_CONTROL
  auto taught = cf::with_role<cf::Role::teacher>(policy, cf::MlpVelocity({}));
#else
  auto taught = policy;
#endif
  auto trainer =
      cf::Trainer(taught, cf::FlowSde{}, cf::toy::InModes{{1, 4}}, cf::TransitionDistillation<>{});
  trainer.run(1);
}
