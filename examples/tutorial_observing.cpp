// Watching a run, writing it down, ending it, and going on with it after a break.

#include <filesystem>
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/observe/collapse_guard.hpp>
#include <contraflow/observe/csv.hpp>
#include <contraflow/observe/early_stop.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/progress_bar.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>
#include <contraflow/observe/tensorboard.hpp>
#include <contraflow/toy/rewards.hpp>
#include <contraflow/train/checkpoint_observer.hpp>

namespace cf = contraflow;

namespace {

/// A small run of NFT; the same each time it is made.
auto make_trainer() {
  auto model = cf::MlpVelocity({.dimension = 2, .width = 32, .depth = 2});
  return cf::Trainer(cf::SnapshotPolicy(model), cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}},
                     cf::Nft{}, {.prompts_per_epoch = 4, .group_size = 12});
}

bool observes() {
  auto trainer = make_trainer();
  //! [observers]
  const cf::RunReport report =
      trainer.run(20, cf::ProgressBar{}, cf::StopOnInterrupt{}, cf::CollapseGuard{},
                  cf::EarlyStop{.metric = "reward/mean", .target = 0.95},
                  cf::JsonLines{"run.jsonl"}, cf::Csv{"run.csv"}, cf::TensorBoard{"board"});
  if (report.stopped) std::cout << report.reason << '\n';
  //! [observers]
  return report.epochs == 20 || report.stopped;
}

bool lambda_observes() {
  auto trainer = make_trainer();
  //! [lambda]
  const cf::RunReport report = trainer.run(20, [](const cf::EpochReport& epoch) -> cf::Verdict {
    if (epoch.gradient_steps < 3) return {};
    return {.stop = true, .reason = "three gradient steps are enough"};
  });
  //! [lambda]
  return report.epochs == 3 && report.stopped;
}

bool resumes_with_the_same_bits() {
  std::filesystem::remove_all("run");
  auto whole = make_trainer();
  whole.run(6);
  auto broken_off = make_trainer();
  //! [checkpoint]
  broken_off.run(4, cf::Checkpoint(broken_off, {.directory = "run", .every = 2}));
  //! [checkpoint]
  auto trainer = make_trainer();
  //! [resume]
  cf::resume(trainer, "run");  // false where there is no checkpoint yet
  trainer.run(6);              // six epochs in total
  //! [resume]
  return trainer.policy().parameters().front().equal(whole.policy().parameters().front());
}

}  // namespace

int main() { return observes() && lambda_observes() && resumes_with_the_same_bits() ? 0 : 1; }
