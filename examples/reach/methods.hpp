#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/observe/tensorboard.hpp>

#include "../support/run.hpp"
#include "network.hpp"

/// The arm's task, its base model, and the two methods that improve it.
namespace reaching {

using namespace support;

/// Shared by both methods.
struct Common {
  static constexpr std::int64_t prompts_per_epoch = 24;
  static constexpr std::int64_t group_size = 16;
  static constexpr int sampling_steps = 10;
  static constexpr std::int64_t gradient_steps = 4;  ///< an epoch
  static constexpr double kl_weight = 0.01;          ///< to the base model
  static constexpr int times_per_sample = 3;         ///< trained on; for FlowGRPO transitions
  static constexpr std::int64_t held_out = 512;      ///< scenes that are evaluated, never trained
  static constexpr std::int64_t pictured = 6;        ///< the first of them
  static constexpr std::int64_t chunks_per_picture = 12;
};

/// What both methods start from.
struct Problem {
  reach::World world;
  Tensor scenes = {};            ///< demonstrated, and prompts of the training
  Tensor actions = {};           ///< the demonstrations
  Tensor held_out = {};          ///< scenes of the evaluation
  ChunkVelocity base = nullptr;  ///< pre-trained on the demonstrations
};

/// What came of the chunks of an evaluation, in shares that sum to 1.
struct Shares {
  double reaches = 0, collides = 0, exceeds = 0, misses = 0;

  static Shares of(const std::vector<reach::Outcome>& outcomes) {
    Shares shares;
    const double one = 1 / double(outcomes.size());
    for (const reach::Outcome& outcome : outcomes) {
      double& share = outcome.reaches    ? shares.reaches
                      : outcome.collides ? shares.collides
                      : outcome.exceeds  ? shares.exceeds
                                         : shares.misses;
      share += one;
    }
    return shares;
  }
};

/// What the observers of a run are told of an evaluation.
inline std::vector<cf::Metric> metrics_of(const Shares& shares) {
  return {{"held_out/reaches", shares.reaches},
          {"held_out/collides", shares.collides},
          {"held_out/exceeds", shares.exceeds},
          {"held_out/misses", shares.misses}};
}

/// The state of a run at an evaluation.
inline Point point_of(const cf::EpochReport& report, const Shares& shares) {
  const double evaluations =
      double(report.forward_evaluations) + 2 * double(report.backward_evaluations);
  return {double(report.epoch), evaluations, report.seconds, shares.reaches};
}

/// A run, and what its policy does at the end.
struct Result {
  Run run;
  Shares before, after;
  Tensor pictured_before, pictured_after;  ///< chunk i is of the scene i % Common::pictured
};

/// Draws scenes and demonstrations, and learns them by flow matching.
inline Problem prepared(const reach::World& world, std::int64_t demonstrations,
                        std::int64_t pretrain_steps) {
  cf::Generator generator = cf::seeded(1), held_out_generator = cf::seeded(2);
  //! [demonstrations]
  Problem problem{.world = world};
  problem.scenes = reach::draw_scenes(world, demonstrations, generator);
  problem.actions = reach::demonstrations(world, problem.scenes, {.careful = 0.5}, generator);
  problem.held_out = reach::draw_scenes(world, Common::held_out, held_out_generator);

  torch::manual_seed(0);  // of the network's first weights
  problem.base = ChunkVelocity(world, 256);
  const auto demonstrated = [&](std::int64_t count, cf::Generator& of_batches) {
    const Tensor rows = cf::integers(demonstrations, count, of_batches);
    return cf::ConditionedData<Tensor>{problem.actions.index_select(0, rows),
                                       problem.scenes.index_select(0, rows)};
  };
  const auto cosine = [&](std::int64_t step) {
    return 0.51 + 0.49 * std::cos(M_PI * double(step) / double(pretrain_steps));
  };
  cf::pretrain(problem.base, demonstrated,
               {.steps = pretrain_steps,
                .batch = 256,
                .optimizer = cf::adamw({.learning_rate = 2e-3}),
                .learning_rate_factor = cosine},
               cf::UniformTimes{}, cf::StopOnInterrupt{});
  //! [demonstrations]
  return problem;
}

inline cf::TrainerOptions trainer_options(const RunSettings& settings) {
  return {
      .prompts_per_epoch = Common::prompts_per_epoch,
      .group_size = Common::group_size,
      .grid = cf::uniform_grid(Common::sampling_steps),
      .update = {.gradient_steps = Common::gradient_steps,
                 .transitions_per_sample = Common::times_per_sample,
                 .optimizer = cf::adamw({.learning_rate = settings.learning_rate})},
      .evaluation = {.samples = Common::held_out, .grid = cf::uniform_grid(Common::sampling_steps)},
      .seed = settings.seed};
}

/// Trains, tells the observers, and evaluates on held-out scenes in between.
/// @param evaluated called as `evaluated(report)` where an evaluation is due; may add metrics
template <class Trainer, class F>
cf::RunReport trained(Trainer& trainer, const RunSettings& settings, F&& evaluated) {
  cf::StopOnInterrupt interrupt;
  cf::JsonLines lines(settings.log);
  cf::TensorBoard board(settings.log.parent_path().parent_path() / "tensorboard" /
                        settings.log.stem());
  cf::Observers observers(interrupt, lines, board);
  observers.start({1, settings.epochs});
  cf::RunReport run;
  while (run.epochs < settings.epochs && !run.stopped) {
    run.last = trainer.run_epoch();
    run.epochs = trainer.epoch();
    const bool is_last = run.epochs == settings.epochs;
    if (is_last || run.epochs % settings.evaluate_every == 0) evaluated(run.last);
    const cf::Verdict verdict = observers(run.last);
    run.stopped = verdict.stop;
    run.reason = verdict.reason;
  }
  observers.finish(run);
  return run;
}

/// A run of a trainer of any type.
template <class Trainer>
Result observed(Trainer& trainer, const Problem& problem, const RunSettings& settings) {
  const cf::PromptRows held_out(problem.held_out);
  const auto shares = [&] {
    const Tensor chunks = trainer.evaluate(held_out).x0;
    return Shares::of(reach::outcomes(problem.world, chunks, problem.held_out));
  };
  const auto pictured = [&] {
    const cf::PromptRows scenes(problem.held_out.narrow(0, 0, Common::pictured));
    return trainer.evaluate(scenes).x0.narrow(0, 0, Common::pictured * Common::chunks_per_picture);
  };
  Result result;
  result.run.settings = settings;
  result.before = result.after = shares();
  result.pictured_before = pictured();
  result.run.curve.push_back({0, 0, 0, result.before.reaches});
  const cf::RunReport run = trained(trainer, settings, [&](cf::EpochReport& report) {
    result.after = shares();
    for (const cf::Metric& metric : metrics_of(result.after)) report.metrics.push_back(metric);
    result.run.curve.push_back(point_of(report, result.after));
  });
  result.pictured_after = pictured();
  result.run.is_complete = !run.stopped;
  return result;
}

/// A way to train, as a row of the comparison.
struct Method {
  std::string name;
  std::string file_name;  ///< the name in names of files
  std::string settings;   ///< for a person
  std::function<Result(const Problem&, const RunSettings&)> train;
};

//! [methods]
/// NFT: any solver, here an ODE solver of order 2.
inline Result train_nft(const Problem& problem, const RunSettings& settings) {
  const auto objective = cf::Nft{.optimality = {.clip = 2}} + Common::kl_weight * cf::VelocityKl{};
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::clone_of(problem.base)), cf::DpmSolver<2>{},
                             reach::Success{problem.world}, objective, trainer_options(settings),
                             cf::PromptRows(problem.scenes),
                             cf::GridTimes{.per_sample = Common::times_per_sample});
  return observed(trainer, problem, settings);
}

/// FlowGRPO: another objective, and an SDE whose steps have densities.
inline Result train_flow_grpo(const Problem& problem, const RunSettings& settings) {
  const auto objective = cf::Grpo{.clip_range = 0.01} + Common::kl_weight * cf::TransitionKl{};
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::clone_of(problem.base)),
                             cf::FlowSde{.noise_level = 0.7}, reach::Success{problem.world},
                             objective, trainer_options(settings), cf::PromptRows(problem.scenes));
  return observed(trainer, problem, settings);
}
//! [methods]

inline Method nft() {
  return {"NFT", "nft",
          "DPM-Solver++ of order 2; beta 1, advantages clipped at 2, old policy's decay "
          "min(0.001 i, 0.5)",
          train_nft};
}
inline Method flow_grpo() {
  return {"FlowGRPO", "flow_grpo",
          "SDE of level 0.7; clip range 0.01, groups without differences left out",
          train_flow_grpo};
}

}  // namespace reaching
