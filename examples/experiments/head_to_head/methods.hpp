#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/contraflow.hpp>

#include "support/run.hpp"

/// The methods that are compared, and what is the same for all of them.
namespace head_to_head {

namespace cf = contraflow;
using namespace support;

/// Shared by all methods.
struct Common {
  static constexpr std::int64_t prompts_per_epoch = 8;
  static constexpr std::int64_t group_size = 24;
  static constexpr int sampling_steps = 10;
  static constexpr std::int64_t gradient_steps = 4;  ///< an epoch
  static constexpr double kl_weight = 0.01;          ///< to the base model
  static constexpr int times_per_sample = 3;         ///< trained on; for FlowGRPO transitions
  static constexpr std::int64_t evaluation_samples = 1000;
  static constexpr int evaluation_steps = 10;
};

/// A way to train, as a row of the comparison.
struct Method {
  std::string name;
  std::string file_name;  ///< the name in names of files
  std::string settings;   ///< for a person
  std::function<Run(const cf::toy::Task&, const cf::MlpVelocity& base, const RunSettings&)> train;
};

/// A run of any method: what is the same for all of them, and the policy's and the components of
/// one.
template <class Solver, class Objective, class... Components>
Run trained(const cf::toy::Task& task, const cf::MlpVelocity& base, const RunSettings& settings,
            const cf::SnapshotOptions& snapshots, const Solver& solver, const Objective& objective,
            const Components&... components) {
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(cf::clone_of(base), snapshots), solver, task, objective,
      cf::Collection{.prompts_per_epoch = Common::prompts_per_epoch,
                     .group_size = Common::group_size,
                     .grid = cf::uniform_grid(Common::sampling_steps)},
      cf::Learning{.gradient_steps = Common::gradient_steps},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = settings.learning_rate})},
      cf::EvaluationOptions{.every = settings.evaluate_every,
                            .samples = Common::evaluation_samples,
                            .grid = cf::uniform_grid(Common::evaluation_steps)},
      cf::Seed{settings.seed}, components...);
  return observed(trainer, task, settings, Settled{});
}

/// NFT, with or without its negative branch.
inline Method nft(bool negative_branch) {
  const auto train = [negative_branch](const cf::toy::Task& task, const cf::MlpVelocity& base,
                                       const RunSettings& settings) {
    const auto objective =
        cf::Nft{.optimality = cf::Optimality{.clip = 2}, .negative_branch = negative_branch} +
        Common::kl_weight * cf::VelocityKl{};
    return trained(
        task, base, settings, cf::SnapshotOptions{.old_decay = cf::Ramp{.rate = 0.001, .max = 0.5}},
        cf::DpmSolver<2>{}, objective,
        cf::ForwardProcess{.times = cf::GridTimes{.per_sample = Common::times_per_sample}});
  };
  return {
      .name = negative_branch ? "NFT" : "NFT, no negatives",
      .file_name = negative_branch ? "nft" : "nft_no_negatives",
      .settings = negative_branch
                      ? "DPM-Solver++ of order 2; beta 1, advantages clipped at 2, old policy's "
                        "decay min(0.001 i, 0.5)"
                      : "the same without the loss of the negative branch",
      .train = train};
}

/// Flow-GRPO.
inline Method flow_grpo() {
  const auto train = [](const cf::toy::Task& task, const cf::MlpVelocity& base,
                        const RunSettings& settings) {
    return trained(task, base, settings, cf::SnapshotOptions{}, cf::FlowSde{.noise_level = 0.7},
                   cf::Grpo{.clip_range = 0.01} + Common::kl_weight * cf::TransitionKl{},
                   cf::RecordedTransitions{.per_sample = Common::times_per_sample});
  };
  return {.name = "FlowGRPO",
          .file_name = "flow_grpo",
          .settings = "SDE of level 0.7; clip range 0.01, groups without differences left out",
          .train = train};
}

}  // namespace head_to_head
