// A metric of your own, in every file and on the screen: a callable that adds to the report.
#include <iostream>
#include <optional>

#include <contraflow/contraflow.hpp>
#include <contraflow/observe/early_stop.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/tensorboard.hpp>
#include <contraflow/toy/tasks.hpp>

namespace cf = contraflow;

int main() {
  at::set_num_threads(1);  // what so small a network takes
  const cf::toy::Task task = cf::toy::ring_task();
  auto model = cf::MlpVelocity({.dimension = 2, .width = 64, .depth = 2});
  cf::pretrain(model, task.data, cf::Pretraining{.steps = 500});
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(model), cf::DpmSolver<2>{}, task, cf::Nft{} + 0.01 * cf::VelocityKl{},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  //! [metric]
  // How much the averaged policy prefers the first of the two rewarded modes.
  const auto preference = [&](auto& of_run, cf::EpochReport& report) {
    std::optional<double> value;  // absent, never zero, in the other epochs
    if (report.epoch % 5 == 0) value = task.shares(of_run.sample(500)).front();
    report.add("mine/preference", value);
  };
  const cf::RunReport run =
      trainer.run(20, preference, cf::JsonLines{"metric.jsonl"}, cf::TensorBoard{"board"},
                  cf::EarlyStop{.metric = "mine/preference", .target = 0.95});
  //! [metric]
  std::cout << "preference at the end: " << run.last.find("mine/preference").value_or(-1) << '\n';
  return run.last.find("mine/preference") ? 0 : 1;
}
