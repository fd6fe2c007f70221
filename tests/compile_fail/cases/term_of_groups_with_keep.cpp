// expect: a Term that compares samples chooses them in `pairs` or `groups`
#include <contraflow/contraflow.hpp>
#include <contraflow/objective/crd.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

struct Keeping {
  using Velocities = cf::Roles<cf::Role::current>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "keeping";
  cf::Tensor groups(const cf::Scores& scores) const { return cf::complete_groups(scores); }
#ifndef POSITIVE_CONTROL
  cf::Tensor keep(const cf::Scores& scores) const { return scores.advantage != 0; }
#endif
  template <class Batch>
  cf::Tensor loss(const Batch& batch, const cf::Tensor&, cf::Statistics&) const {
    return cf::mean_per_sample(cf::velocity<cf::Role::current>(batch).square());
  }
};

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::DpmSolver<2>{},
                             cf::toy::InModes{{1, 4}}, Keeping{});
  trainer.run(1);
}
