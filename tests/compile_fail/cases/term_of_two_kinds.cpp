// expect: a Term has batches of its own of one kind
#include <contraflow/contraflow.hpp>
#include <contraflow/objective/crd.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

struct OfTwoKinds {
  using Velocities = cf::Roles<cf::Role::current>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "of_two_kinds";
  cf::Tensor groups(const cf::Scores& scores) const { return cf::complete_groups(scores); }
#ifndef POSITIVE_CONTROL
  cf::Tensor pairs(const cf::Scores& scores) const { return cf::complete_groups(scores); }
#endif
  template <class Batch>
  cf::Tensor loss(const Batch& batch, const cf::Tensor&, cf::Statistics&) const {
    return cf::mean_per_sample(cf::velocity<cf::Role::current>(batch).square());
  }
};

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::DpmSolver<2>{},
                             cf::toy::InModes{{1, 4}}, OfTwoKinds{});
  trainer.run(1);
}
