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
  bool is_complete = false;    ///< neither interrupted nor failed
};

/// Shared by all methods.
struct Common {
  static constexpr std::int64_t prompts_per_epoch = 8;
  static constexpr std::int64_t group_size = 24;
  static constexpr int sampling_steps = 10;
  static constexpr std::int64_t gradient_steps = 4;  ///< an epoch
  static constexpr double kl_weight = 0.01;          ///< to the base model
  static constexpr int times_per_sample = 3;         ///< trained on; for FlowGRPO transitions
  static constexpr std::int64_t evaluation_samples = 1000;
  static constexpr int evaluation_steps = 20;
  /// A run ends early when so many evaluations in a row are all `solved` or all `dead`.
  static constexpr int settled_evaluations = 6;
  static constexpr double solved = 0.985, dead = 0.03;
};

/// A way to train, as a row of the comparison.
struct Method {
  std::string name;
  std::string file_name;  ///< the name in names of files
  std::string settings;   ///< for a person
  std::function<Run(const cf::toy::Task&, const cf::MlpVelocity& base, const RunSettings&)> train;
};

/// Ends a run that has stayed solved, or dead, for long enough.
class StopWhenSettled {
 public:
  cf::Verdict operator()(const cf::EpochReport& report) {
    const auto reward = report.find("evaluation/reward");
    if (!reward) return {};
    solved_ = *reward >= Common::solved ? solved_ + 1 : 0;
    dead_ = *reward <= Common::dead ? dead_ + 1 : 0;
    const bool is_solved = solved_ >= Common::settled_evaluations;
    const bool is_dead = dead_ >= Common::settled_evaluations;
    return {.stop = is_solved || is_dead, .reason = is_solved ? "solved" : "dead"};
  }

 private:
  int solved_ = 0, dead_ = 0;
};

inline cf::TrainerOptions trainer_options(const RunSettings& settings) {
  return {.prompts_per_epoch = Common::prompts_per_epoch,
          .group_size = Common::group_size,
          .grid = cf::uniform_grid(Common::sampling_steps),
          .update = {.gradient_steps = Common::gradient_steps,
                     .transitions_per_sample = Common::times_per_sample,
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
    run.curve.push_back({double(report.epoch), evaluations, report.seconds, *reward});
  };
  trainer.run(settings.epochs, record, StopWhenSettled{}, cf::StopOnInterrupt{},
              cf::JsonLines{settings.log});
  run.samples = trainer.evaluate().x0;
  run.shares = task.shares(run.samples);
  run.is_complete = !cf::StopOnInterrupt::interrupted();
  return run;
}

/// NFT, with or without its negative branch.
inline Method nft(bool negative_branch) {
  const auto train = [negative_branch](const cf::toy::Task& task, const cf::MlpVelocity& base,
                                       const RunSettings& settings) {
    const auto objective = cf::Nft{.optimality = {.clip = 2}, .negative_branch = negative_branch} +
                           Common::kl_weight * cf::VelocityKl{};
    auto policy =
        cf::SnapshotPolicy(cf::clone_of(base), {.old_decay = cf::Ramp{.rate = 0.001, .max = 0.5}});
    auto trainer = cf::Trainer(std::move(policy), cf::DpmSolver<2>{}, task, objective,
                               trainer_options(settings),
                               cf::GridTimes{.per_sample = Common::times_per_sample});
    return observed(trainer, task, settings);
  };
  return {
      .name = negative_branch ? "NFT" : "NFT, no negatives",
      .file_name = negative_branch ? "nft" : "nft_no_negatives",
      .settings = negative_branch
                      ? "DPM-Solver++ of order 2; beta 1, advantages clipped at 2, old policy's "
                        "decay min(0.001 i, 0.5)"
                      : "the same with r = 1 for the positive branch alone",
      .train = train};
}

/// Flow-GRPO.
inline Method flow_grpo() {
  const auto train = [](const cf::toy::Task& task, const cf::MlpVelocity& base,
                        const RunSettings& settings) {
    auto policy = cf::SnapshotPolicy(cf::clone_of(base));
    const auto objective = cf::Grpo{.clip_range = 0.01} + Common::kl_weight * cf::TransitionKl{};
    auto trainer = cf::Trainer(std::move(policy), cf::FlowSde{.noise_level = 0.7}, task, objective,
                               trainer_options(settings));
    return observed(trainer, task, settings);
  };
  return {.name = "FlowGRPO",
          .file_name = "flow_grpo",
          .settings = "SDE of level 0.7; clip range 0.01, groups without differences left out",
          .train = train};
}

}  // namespace head_to_head
