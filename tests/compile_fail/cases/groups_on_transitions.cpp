// expect: a term that compares samples or looks at data does so on the forward process
#include <contraflow/contraflow.hpp>
#include <contraflow/objective/crd.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

struct OfGroups {
  using Velocities = cf::Roles<cf::Role::current>;
#ifdef POSITIVE_CONTROL
  using Points = cf::ForwardProcess;
#else
  using Points = cf::RecordedTransitions;
#endif
  static constexpr std::string_view name = "of_groups";
  cf::Tensor groups(const cf::Scores& scores) const { return cf::complete_groups(scores); }
  template <class Batch>
  cf::Tensor loss(const Batch& batch, const cf::Tensor&, cf::Statistics&) const {
    return cf::mean_per_sample(cf::velocity<cf::Role::current>(batch).square());
  }
};

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::FlowSde{},
                             cf::toy::InModes{{1, 4}}, OfGroups{});
  trainer.run(1);
}
