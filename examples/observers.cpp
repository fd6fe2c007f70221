// Watching a run, writing it down, and ending it in good order.
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

namespace cf = contraflow;

int main() {
  at::set_num_threads(1);  // what so small a network takes
  auto trainer =
      cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({.dimension = 2, .width = 32, .depth = 2})),
                  cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}}, cf::Nft{},
                  cf::Collection{.prompts_per_epoch = 4, .group_size = 12});
  //! [observers]
  const cf::RunReport report =
      trainer.run(20, cf::ProgressBar{}, cf::StopOnInterrupt{}, cf::CollapseGuard{},
                  cf::EarlyStop{.metric = "reward/mean", .target = 0.95},
                  cf::JsonLines{"run.jsonl"}, cf::Csv{"run.csv"}, cf::TensorBoard{"board"});
  if (report.stopped) std::cout << report.reason << '\n';
  //! [observers]
  return report.epochs == 20 || report.stopped ? 0 : 1;
}
