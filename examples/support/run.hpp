#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include <contraflow/contraflow.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>
#include <contraflow/toy/tasks.hpp>

#include "checkpoints.hpp"

/// Training runs on toy tasks.
namespace support {

namespace cf = contraflow;

/// What one run may differ in.
struct RunSettings {
  double learning_rate = 1e-3;
  std::uint64_t seed = 0;
  std::int64_t epochs = 100;
  std::int64_t evaluate_every = 5;
  std::filesystem::path log;               ///< JSON lines
  std::filesystem::path checkpoints = {};  ///< folder; empty: none
};

/// The state of a run at an evaluation.
struct Point {
  double epoch;
  double evaluations;  ///< of the velocity for one sample: forward counts one, backward two
  double seconds;      ///< of training alone
  double reward;
};

/// What a run gave.
struct Run {
  RunSettings settings;
  std::vector<Point> curve;    ///< the first is the base model's
  std::vector<double> shares;  ///< of the rewarded modes at the end
  cf::Tensor samples;          ///< at the end
  bool is_complete = false;    ///< not interrupted
};

/// Adds a run to a list that is in the order of seeds.
inline void insert_by_seed(std::vector<Run>& runs, Run run) {
  const auto place = std::find_if(runs.begin(), runs.end(), [&](const Run& other) {
    return other.settings.seed > run.settings.seed;
  });
  runs.insert(place, std::move(run));
}

/// A run ends early when so many evaluations in a row are all solved or all dead.
struct Settled {
  int evaluations = 12;
  double solved = 0.985, dead = 0.03;
};

/// Ends a run that has stayed solved, or dead, for long enough.
class StopWhenSettled {
 public:
  explicit StopWhenSettled(const Settled& settled) : settled_(settled) {}

  cf::Verdict operator()(const cf::EpochReport& report) {
    const auto reward = report.find("evaluation/reward");
    if (!reward) return {};
    solved_ = *reward >= settled_.solved ? solved_ + 1 : 0;
    dead_ = *reward <= settled_.dead ? dead_ + 1 : 0;
    const bool is_solved = solved_ >= settled_.evaluations;
    const bool is_dead = dead_ >= settled_.evaluations;
    return {.stop = is_solved || is_dead, .reason = is_solved ? "solved" : "dead"};
  }

 private:
  Settled settled_;
  int solved_ = 0, dead_ = 0;
};

/// Trains with a trainer of any type, from its newest checkpoint on; its evaluations are the run's
/// curve.
/// @param settled when to end early; nothing: never
template <class Trainer>
Run observed(Trainer& trainer, const cf::toy::Task& task, const RunSettings& settings,
             const std::optional<Settled>& settled) {
  Run run;
  run.settings = settings;
  run.curve.push_back({0, 0, 0, trainer.evaluate().reward});
  const auto record = [&](const cf::EpochReport& report) {
    const auto reward = report.find("evaluation/reward");
    if (!reward) return;
    run.curve.push_back({double(report.epoch), report.evaluation_cost(), report.seconds, *reward});
  };
  // No reward is that high or that low: the run goes on to its last epoch.
  const Settled never{.solved = 2, .dead = -1};
  StopWhenSettled stop(settled.value_or(never));
  bool is_over = false;
  for (const cf::EpochReport& report : resumed(trainer, settings.checkpoints, settings.log)) {
    record(report);
    is_over = stop(report).stop || report.epoch == settings.epochs;
  }
  if (!is_over) {
    // So short a run is kept when it ends.
    run_kept(trainer, settings.epochs, settings.checkpoints, settings.epochs, record, stop,
             cf::StopOnInterrupt{}, cf::JsonLines{settings.log});
  }
  run.samples = trainer.evaluate().x0;
  run.shares = task.shares(run.samples);
  run.is_complete = !cf::StopOnInterrupt::interrupted();
  return run;
}

/// A model that has learnt data.
struct Pretrained {
  cf::MlpVelocity model;
  double seconds;  ///< of training
};

/// Learns the data of a task by flow matching, from the newest checkpoint on.
/// @param checkpoints folder; empty: none
/// @return a model whose samples are worth improving; the same for equal arguments
inline Pretrained pretrained(const cf::toy::Task& task, std::int64_t steps, std::int64_t batch,
                             std::uint64_t seed, const std::filesystem::path& checkpoints = {}) {
  cf::MlpVelocity model({.dimension = task.dimension, .width = 128, .depth = 3, .seed = seed});
  const cf::Cosine falling{.steps = double(steps), .warm_up = 50, .last = 0.02};
  cf::Pretrainer trainer(model, task.data, cf::Pretraining{.steps = steps, .batch = batch},
                         cf::Optimization{.optimizer = cf::adamw({.learning_rate = 2e-3}),
                                          .learning_rate_factor = falling},
                         cf::Seed{seed});
  resumed(trainer, checkpoints);
  run_kept(trainer, trainer.epochs(), checkpoints, 10, cf::StopOnInterrupt{});
  return {model, trainer.seconds()};
}

}  // namespace support
