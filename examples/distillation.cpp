// Two teachers, each a frozen network under a role of its own, distilled at states of the student.
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/objective/distillation.hpp>
#include <contraflow/policy/with_role.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using cf::Role;

/// A network that has learnt the ring, for so many steps.
cf::MlpVelocity pretrained(std::int64_t width, std::int64_t steps) {
  auto model = cf::MlpVelocity({.dimension = 2, .width = width, .depth = 2});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = steps});
  return model;
}

//! [roles]
inline constexpr Role second{"second teacher"};
//! [roles]

int main() {
  at::set_num_threads(1);  // what so small a network takes
  //! [policy]
  const auto student = pretrained(64, 100);
  const auto expert = pretrained(128, 1500), other = pretrained(96, 1500);
  auto policy = cf::with_role<second>(
      cf::with_role<Role::teacher>(cf::SnapshotPolicy(student), expert), other);
  //! [policy]
  //! [objective]
  // On the steps of the student's own rollout, so the solver is a stochastic one; rewards only
  // watch.
  auto objective = cf::TransitionDistillation<Role::teacher>{} +
                   0.5 * cf::TransitionDistillation<second>{} + 0.04 * cf::TransitionKl{};
  //! [objective]
  auto trainer = cf::Trainer(
      std::move(policy), cf::FlowSde{}, cf::toy::InModes{{1, 4}}, objective,
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 2e-3})});
  const auto distance = [&] { return trainer.run_epoch().find("loss/distillation").value_or(0); };
  const double before = distance();
  trainer.run(40);
  const double after = distance();
  std::cout << "distance to the teachers before: " << before << ", after: " << after << '\n';
  return after < 0.7 * before ? 0 : 1;
}
