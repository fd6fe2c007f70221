// A term of your own: it says which velocities it needs and where, and gives a loss a sample.
#include <iostream>
#include <string_view>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using cf::Tensor;

//! [objective]
/// Flow matching to the samples that beat their group, each weighted by its advantage.
struct BetterThanMean {
  using Velocities = cf::Roles<cf::Role::current>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "better_than_mean";

  double most = 5;  ///< largest weight, above 0

  Tensor signal(const cf::Scores& scores) const { return scores.advantage.clamp(0, most); }
  Tensor keep(const cf::Scores& scores) const { return scores.advantage > 0; }

  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& weight, cf::Statistics&) const {
    const Tensor error = cf::matching_error(batch, cf::velocity<cf::Role::current>(batch));
    return weight.to(error.scalar_type()) * error;
  }
};
static_assert(cf::Term<BetterThanMean>);
//! [objective]

int main() {
  at::set_num_threads(1);  // what so small a network takes
  auto model = cf::MlpVelocity({.dimension = 2, .width = 64, .depth = 2});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 500});
  //! [sum]
  auto objective = BetterThanMean{} + 0.1 * cf::VelocityKl{};
  //! [sum]
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(model), cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}}, objective,
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Learning{.gradient_steps = 2},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  const double before = trainer.evaluate().reward;
  const cf::RunReport run = trainer.run(30);
  const double after = trainer.evaluate().reward;
  std::cout << "reward before: " << before << ", after: " << after
            << ", loss: " << run.last.find("loss/better_than_mean").value_or(0) << '\n';
  return after > before + 0.1 ? 0 : 1;
}
