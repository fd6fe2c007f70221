// An observer of your own, and one that ends the run.
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

//! [observer]
/// Remembers the best epoch.
struct BestEpoch {
  std::int64_t epoch = 0;
  double reward = -1e300;

  void operator()(const cf::EpochReport& report) {
    const auto value = report.find("reward/mean");
    if (!value || *value <= reward) return;
    epoch = report.epoch;
    reward = *value;
  }
};
static_assert(cf::Observer<BestEpoch>);
//! [observer]

int main() {
  at::set_num_threads(1);  // what so small a network takes
  auto trainer =
      cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({.dimension = 2, .width = 32, .depth = 2})),
                  cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}}, cf::Nft{},
                  cf::Collection{.prompts_per_epoch = 4, .group_size = 12});
  BestEpoch best;
  //! [lambda]
  const cf::RunReport run = trainer.run(20, best, [](const cf::EpochReport& report) -> cf::Verdict {
    if (report.gradient_steps < 3) return {};
    return {.stop = true, .reason = "three gradient steps are enough"};
  });
  //! [lambda]
  std::cout << run.reason << "; best was epoch " << best.epoch << '\n';
  return run.epochs == 3 && run.stopped && best.epoch >= 1 ? 0 : 1;
}
