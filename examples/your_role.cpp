// A role of your own: a teacher, a frozen network beside those of the policy, that a term asks for.
#include <iostream>
#include <string_view>

#include <contraflow/contraflow.hpp>
#include <contraflow/policy/with_role.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using cf::Tensor;

//! [term]
inline constexpr cf::Role teacher{"teacher"};

/// Mean squared distance to the teacher's velocity.
struct Distillation {
  using Velocities = cf::Roles<cf::Role::current, teacher>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "distillation";

  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, cf::Statistics&) const {
    const Tensor student = cf::wide(cf::velocity<cf::Role::current>(batch));
    return cf::mean_per_sample((student - cf::velocity<teacher>(batch)).square());
  }
};
//! [term]

/// A network that has learnt the ring, for so many steps.
cf::MlpVelocity pretrained(std::int64_t width, std::int64_t steps) {
  auto model = cf::MlpVelocity({.dimension = 2, .width = width, .depth = 2});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = steps});
  return model;
}

int main() {
  at::set_num_threads(1);  // what so small a network takes
  //! [policy]
  const auto student = pretrained(64, 300), expert = pretrained(128, 1000);
  auto policy = cf::with_role<teacher>(cf::SnapshotPolicy(student), expert);
  //! [policy]
  auto trainer = cf::Trainer(
      std::move(policy), cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}},
      cf::Nft{} + 0.1 * Distillation{},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Learning{.gradient_steps = 2},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  const double before = trainer.evaluate().reward;
  const cf::RunReport run = trainer.run(30);
  const double after = trainer.evaluate().reward;
  std::cout << "reward before: " << before << ", after: " << after
            << ", distance to the teacher: " << run.last.find("loss/distillation").value_or(0)
            << '\n';
  return after > before + 0.05 ? 0 : 1;
}
