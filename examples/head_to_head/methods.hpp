#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/contraflow.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>
#include <contraflow/toy/tasks.hpp>

/// The methods that are compared, and what is the same for all of them.
namespace head_to_head {

namespace cf = contraflow;

/// What one run may differ in.
struct RunSettings {
  double learning_rate = 1e-3;
  std::uint64_t seed = 0;
  std::int64_t epochs = 100;
  std::int64_t evaluate_every = 5;
  std::filesystem::path log;  ///< JSON lines
};

/// The state of a run at an evaluation.
struct Point {
  std::int64_t epoch;
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
  bool is_complete = false;    ///< neither interrupted nor failed
};

/// Shared by all methods.
struct Common {
  static constexpr std::int64_t prompts_per_epoch = 8;
  static constexpr std::int64_t group_size = 24;
  static constexpr int sampling_steps = 10;
  static constexpr std::int64_t evaluation_samples = 1000;
  static constexpr int evaluation_steps = 20;
  /// A run ends early when so many evaluations in a row are at least `solved`.
  static constexpr int solved_evaluations = 5;
  static constexpr double solved = 0.985;
};

/// A way to train, as a row of the comparison.
struct Method {
  std::string name;
  std::string file_name;  ///< the name in names of files
  std::string settings;   ///< for a person
  std::function<Run(const cf::toy::Task&, const cf::MlpVelocity& base, const RunSettings&)> train;
};

/// Ends a run that has stayed solved for long enough.
class StopWhenSolved {
 public:
  cf::Verdict operator()(const cf::EpochReport& report) {
    const auto reward = report.find("evaluation/reward");
    if (!reward) return {};
    in_a_row_ = *reward >= Common::solved ? in_a_row_ + 1 : 0;
    return {.stop = in_a_row_ >= Common::solved_evaluations, .reason = "solved"};
  }

 private:
  int in_a_row_ = 0;
};

inline cf::TrainerOptions trainer_options(const RunSettings& settings,
                                          std::int64_t gradient_steps) {
  return {.prompts_per_epoch = Common::prompts_per_epoch,
          .group_size = Common::group_size,
          .grid = cf::uniform_grid(Common::sampling_steps),
          .update = {.gradient_steps = gradient_steps,
                     .optimizer = cf::adamw({.learning_rate = settings.learning_rate})},
          .evaluation = {.every = settings.evaluate_every,
                         .samples = Common::evaluation_samples,
                         .grid = cf::uniform_grid(Common::evaluation_steps)},
          .seed = settings.seed};
}

/// Trains with a trainer of any type and keeps what the comparison needs.
template <class Trainer>
Run observed(Trainer& trainer, const cf::toy::Task& task, const RunSettings& settings) {
  Run run;
  run.settings = settings;
  run.curve.push_back({0, 0, 0, trainer.evaluate().reward});
  const auto record = [&](const cf::EpochReport& report) {
    const auto reward = report.find("evaluation/reward");
    if (!reward) return;
    const double evaluations =
        double(report.forward_evaluations) + 2 * double(report.backward_evaluations);
    run.curve.push_back({report.epoch, evaluations, report.seconds, *reward});
  };
  trainer.run(settings.epochs, record, StopWhenSolved{}, cf::StopOnInterrupt{},
              cf::JsonLines{settings.log});
  run.samples = trainer.evaluate().x0;
  run.shares = task.shares(run.samples);
  run.is_complete = !cf::StopOnInterrupt::interrupted();
  return run;
}

/// NFT, with or without its negative branch.
inline Method nft(bool negative_branch) {
  return {
      .name = negative_branch ? "NFT" : "NFT, no negatives",
      .file_name = negative_branch ? "nft" : "nft_no_negatives",
      .settings = "second-order ODE sampling, 9 times a sample, 1 gradient step an epoch, beta 1",
      .train = [negative_branch](const cf::toy::Task& task, const cf::MlpVelocity& base,
                                 const RunSettings& settings) {
        auto policy = cf::SnapshotPolicy(cf::clone_of(base));
        auto objective =
            cf::Nft{.beta = 1, .negative_branch = negative_branch} + 1e-4 * cf::VelocityKl{};
        auto trainer = cf::Trainer(std::move(policy), cf::DpmSolver<2>{}, task, objective,
                                   trainer_options(settings, 1));
        return observed(trainer, task, settings);
      }};
}

/// Flow-GRPO.
inline Method flow_grpo() {
  return {
      .name = "FlowGRPO",
      .file_name = "flow_grpo",
      .settings = "SDE sampling of level 0.7, 9 transitions a sample, 2 gradient steps an epoch",
      .train = [](const cf::toy::Task& task, const cf::MlpVelocity& base,
                  const RunSettings& settings) {
        auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::clone_of(base)), cf::FlowSde{}, task,
                                   cf::Grpo{.clip_range = 0.2}, trainer_options(settings, 2));
        return observed(trainer, task, settings);
      }};
}

}  // namespace head_to_head
