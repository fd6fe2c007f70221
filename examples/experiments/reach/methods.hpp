#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/observe/tensorboard.hpp>

#include "network.hpp"
#include "support/checkpoints.hpp"
#include "support/ranks.hpp"
#include "support/run.hpp"

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
  Ranks ranks;  ///< who train together
  reach::World world;
  Tensor scenes = {};            ///< demonstrated, and prompts of the training
  Tensor actions = {};           ///< the demonstrations
  Tensor held_out = {};          ///< scenes of the evaluation
  ChunkVelocity base = nullptr;  ///< pre-trained on the demonstrations
};

/// What came of the chunks of an evaluation, in shares that sum to 1.
struct Shares {
  double reaches = 0, collides = 0, exceeds = 0, misses = 0;

  /// What a report holds, if that was measured.
  static std::optional<Shares> in(const cf::EpochReport& report) {
    if (!report.find("held_out/reaches")) return std::nullopt;
    const auto share = [&](const char* name) {
      return report.find(std::string("held_out/") + name).value_or(0);
    };
    return Shares{share("reaches"), share("collides"), share("exceeds"), share("misses")};
  }
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

/// A run, and what its policy does at the end.
struct Result {
  Run run;
  Shares before, after;
  Tensor pictured_before, pictured_after;  ///< chunk i is of the scene i % Common::pictured
};

/// Draws scenes and demonstrations, and learns them by flow matching.
/// @param checkpoints folder, from whose newest one the learning goes on
inline Problem prepared(const Ranks& ranks, const reach::World& world, std::int64_t demonstrations,
                        std::int64_t pretrain_steps, const std::filesystem::path& checkpoints) {
  cf::Generator generator = cf::seeded(1), held_out_generator = cf::seeded(2);
  //! [demonstrations]
  Problem problem{.ranks = ranks, .world = world};
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
  cf::Pretrainer trainer(
      problem.base, demonstrated, cf::Pretraining{.steps = pretrain_steps, .batch = 256},
      cf::Optimization{
          .optimizer = cf::adamw({.learning_rate = 2e-3}),
          .learning_rate_factor = cf::Cosine{.steps = double(pretrain_steps), .last = 0.02}},
      ranks);
  resumed(trainer, checkpoints);
  run_kept(trainer, trainer.epochs(), checkpoints, 10, cf::StopOnInterrupt{});
  //! [demonstrations]
  return problem;
}

/// Measures the averaged policy on held-out scenes where that is due, for every observer to see.
class HeldOut {
 public:
  /// @param result is given what is measured
  HeldOut(const Problem& problem, const RunSettings& settings, Result& result)
      : problem_(problem), settings_(settings), result_(result) {}

  /// What came of the chunks.
  template <class Trainer>
  Shares shares(Trainer& trainer) const {
    const Tensor chunks = trainer.evaluate(cf::PromptRows(problem_.held_out)).x0;
    return Shares::of(reach::outcomes(problem_.world, chunks, problem_.held_out));
  }
  /// Chunks for pictures.
  template <class Trainer>
  Tensor pictured(Trainer& trainer) const {
    const cf::PromptRows scenes(problem_.held_out.narrow(0, 0, Common::pictured));
    return trainer.evaluate(scenes).x0.narrow(0, 0, Common::pictured * Common::chunks_per_picture);
  }

  //! [measure]
  template <class Trainer>
  void measure(Trainer& trainer, cf::EpochReport& report) {
    const bool is_last = report.epoch == settings_.epochs;
    if (!is_last && report.epoch % settings_.evaluate_every != 0) return;
    const Shares now = shares(trainer);
    report.add("held_out/reaches", now.reaches);
    report.add("held_out/collides", now.collides);
    report.add("held_out/exceeds", now.exceeds);
    report.add("held_out/misses", now.misses);
    keep(report);
  }
  //! [measure]

  /// Adds what a report holds to the result.
  void keep(const cf::EpochReport& report) {
    const auto found = Shares::in(report);
    if (!found) return;
    result_.after = *found;
    result_.run.curve.push_back(
        {double(report.epoch), report.evaluation_cost(), report.seconds, found->reaches});
  }

 private:
  const Problem& problem_;
  const RunSettings& settings_;
  Result& result_;
};

/// A run of a trainer of any type, from its newest checkpoint on.
template <class Trainer>
Result observed(Trainer& trainer, const Problem& problem, const RunSettings& settings) {
  Result result;
  result.run.settings = settings;
  HeldOut held_out(problem, settings, result);
  result.before = result.after = held_out.shares(trainer);
  result.pictured_before = held_out.pictured(trainer);
  result.run.curve.push_back({0, 0, 0, result.before.reaches});
  const std::filesystem::path board =
      settings.log.parent_path().parent_path() / "tensorboard" / settings.log.stem();
  for (const auto& report : resumed(trainer, settings.checkpoints, settings.log)) {
    held_out.keep(report);
  }
  const cf::RunReport run = run_kept(trainer, settings.epochs, settings.checkpoints,
                                     5 * settings.evaluate_every, held_out, cf::StopOnInterrupt{},
                                     cf::JsonLines{settings.log}, cf::TensorBoard{board});
  result.pictured_after = held_out.pictured(trainer);
  result.run.is_complete = !run.stopped;
  return result;
}

/// A run of any method: what is the same for both, and the components of one.
template <class Solver, class Objective, class... Components>
Result trained(const Problem& problem, const RunSettings& settings, const Solver& solver,
               const Objective& objective, const Components&... components) {
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(cf::clone_of(problem.base)), solver, reach::Success{problem.world},
      objective, cf::PromptRows(problem.scenes),
      cf::Collection{.prompts_per_epoch = Common::prompts_per_epoch,
                     .group_size = Common::group_size,
                     .grid = cf::uniform_grid(Common::sampling_steps)},
      cf::Learning{.gradient_steps = Common::gradient_steps},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = settings.learning_rate})},
      cf::EvaluationOptions{.samples = Common::held_out,
                            .grid = cf::uniform_grid(Common::sampling_steps)},
      cf::Seed{settings.seed}, problem.ranks, components...);
  return observed(trainer, problem, settings);
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
  return trained(
      problem, settings, cf::DpmSolver<2>{},
      cf::Nft{.optimality = cf::Optimality{.clip = 2}} + Common::kl_weight * cf::VelocityKl{},
      cf::ForwardProcess{.times = cf::GridTimes{.per_sample = Common::times_per_sample}});
}

/// FlowGRPO: another objective, and an SDE whose steps have densities.
inline Result train_flow_grpo(const Problem& problem, const RunSettings& settings) {
  return trained(problem, settings, cf::FlowSde{.noise_level = 0.7},
                 cf::Grpo{.clip_range = 0.01} + Common::kl_weight * cf::TransitionKl{},
                 cf::RecordedTransitions{.per_sample = Common::times_per_sample});
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
