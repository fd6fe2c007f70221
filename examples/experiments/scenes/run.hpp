#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/progress_bar.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>
#include <contraflow/observe/tensorboard.hpp>
#include <contraflow/reward/list.hpp>

#include "settings.hpp"
#include "support/checkpoints.hpp"
#include "support/ranks.hpp"

namespace scenes_example {

/// The state of a run at an evaluation.
struct Point {
  double epoch = 0;
  double evaluations = 0;  ///< of the velocity for one sample: forward counts one, backward two
  double seconds = 0;      ///< of training alone
  StrictScore strict = {};
};

/// What a run gave.
struct Run {
  Settings settings;
  std::vector<Point> curve;  ///< the first is the base's
  double diversity = 0;      ///< see diversity()
  SceneFlow model;           ///< the averaged weights
  bool is_complete = false;  ///< not interrupted
};

/// The best strict score of a run.
inline double best_of(const Run& run) {
  double best = 0;
  for (const Point& point : run.curve) best = std::max(best, point.strict.overall);
  return best;
}

/// Where a run is written down.
struct Watched {
  std::filesystem::path lines;             ///< JSON lines
  std::filesystem::path checkpoints;       ///< folder, from which it goes on
  std::filesystem::path tensorboard = {};  ///< folder of events; empty: none, nor a progress bar
};

namespace detail {

/// The model behind the wrappers that training needs.
inline const SceneFlow& bare(const cf::OnThreads<SceneFlow>& model) { return model.wrapped(); }
inline const SceneFlow& bare(const cf::Guided<cf::OnThreads<SceneFlow>, Tensor>& model) {
  return bare(model.wrapped());
}

/// Rewards are told the number of a prompt in the catalogue.
inline cf::RewardList<Tensor> rewards_of(Method method) {
  cf::RewardList<Tensor> rewards;
  if (method != Method::nft_multi) {
    rewards.add("strict", scenes::Strict{});
    return rewards;
  }
  //! [rewards]
  rewards.add("strict", scenes::Strict{}, 1, cf::Normalisation::none);
  rewards.add("off_border", scenes::OffBorder{}, 0.3, cf::Normalisation::rank);
  rewards.add("brightness", scenes::ColourBrightness{}, 0.3, cf::Normalisation::min_max);
  //! [rewards]
  return rewards;
}

/// How NFT noises samples.
inline cf::ForwardProcess forward_process(const Settings& s) {
  cf::ForwardProcess process{.shared_noise = s.shared_noise, .report_times = true};
  if (s.times == 0) {
    process.times = cf::GridTimes{};
  } else {
    process.times = cf::StratifiedTimes{.per_sample = s.times};
  }
  return process;
}

/// What the runs of one base share.
struct Start {
  cf::OnThreads<SceneFlow> model;  ///< a clone, which is trained
  Settings settings;
  Watched watched;
  const support::Ranks& ranks;
};

inline std::string metric_of(scenes::Category category) {
  return std::string("evaluation/strict/") + scenes::name_of(category);
}
inline void add_to(cf::EpochReport& report, const StrictScore& strict) {
  report.add("evaluation/strict", strict.overall);
  for (const scenes::Category category : scenes::categories) {
    report.add(metric_of(category), strict.by_category[std::size_t(category)]);
  }
}
/// The score that a report holds, if that was measured.
inline std::optional<StrictScore> score_in(const cf::EpochReport& report) {
  const auto overall = report.find("evaluation/strict");
  if (!overall) return std::nullopt;
  StrictScore score{*overall, {}};
  for (const scenes::Category category : scenes::categories) {
    score.by_category[std::size_t(category)] = report.find(metric_of(category)).value_or(0);
  }
  return score;
}

/// A trainer for a solver and an objective of any type.
/// @param points ForwardProcess or RecordedTransitions
template <class Model, class Solver, class Objective, class Points>
auto trainer_of(Model model, const Start& start, const Solver& solver, const Objective& objective,
                const Points& points) {
  const Settings& s = start.settings;
  const cf::SnapshotOptions snapshots{.old_decay = s.old_decay,
                                      .average_decay = cf::WarmingUp{.max = s.average_decay},
                                      .average_every = s.average_every};
  const Tensor numbers = scenes::training_prompts();
  return cf::Trainer(
      cf::SnapshotPolicy(std::move(model), snapshots), solver, rewards_of(s.method), objective,
      cf::PromptRows(tokens_of(numbers), numbers),
      cf::Collection{.prompts_per_epoch = s.prompts,
                     .group_size = s.group_size,
                     .grid = cf::uniform_grid(sampling_steps)},
      points, cf::GroupAdvantage{.spread = s.spread},
      cf::Learning{.gradient_steps = s.gradient_steps},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = s.learning_rate}),
                       .learning_rate_factor = cf::InverseRoot{.steps = s.decay_steps}},
      cf::Seed{s.seed}, cf::Ahead{s.ahead}, start.ranks);
}

/// Trains from the newest checkpoint on, and scores the averaged policy on the kept-out prompts
/// where that is due.
/// @param cost of one velocity, in evaluations of the model
template <class Trainer>
Run trained(Trainer trainer, const Start& start, double cost) {
  const Settings& s = start.settings;
  const Watched& watched = start.watched;
  const auto average = [&] { return bare(trainer.policy().model(cf::Role::average)); };
  const auto score = [&] {
    return evaluated(cf::OnThreads<SceneFlow>(average(), start.model.threads()), start.ranks,
                     s.evaluated);
  };
  Run run{s, {{.strict = score()}}, 0, average(), false};
  const auto record = [&](const cf::EpochReport& report) {
    const auto found = score_in(report);
    if (!found) return;
    run.curve.push_back(
        {double(report.epoch), cost * report.evaluation_cost(), report.seconds, *found});
  };
  for (const auto& report : support::resumed(trainer, watched.checkpoints, watched.lines)) {
    record(report);
  }
  //! [measure]
  const auto strict = [&](auto&, cf::EpochReport& report) {
    if (report.epoch % s.evaluate_every != 0 && report.epoch != s.epochs) return;
    add_to(report, score());
    record(report);
  };
  const auto run_with = [&](auto&&... more) {
    return support::run_kept(trainer, s.epochs, watched.checkpoints, s.evaluate_every, strict,
                             cf::StopOnInterrupt{}, cf::JsonLines{watched.lines}, more...);
  };
  //! [measure]
  cf::RunReport report = watched.tensorboard.empty()
                             ? run_with()
                             : run_with(cf::TensorBoard{watched.tensorboard}, cf::ProgressBar{});
  if (double(report.last.epoch) > run.curve.back().epoch) {
    add_to(report.last, score());
    record(report.last);
  }
  run.is_complete = !report.stopped && !cf::StopOnInterrupt::interrupted();
  run.model = cf::clone_of(average());
  run.diversity = diversity(run.model, s.evaluated);
  return run;
}

inline Run nft(const Start& start) {
  const Settings& s = start.settings;
  const cf::Optimality optimality{.clip = s.advantage_clip};
  const bool negative = s.method != Method::nft_positive;
  const auto train = [&](const auto& solver, const auto& objective) {
    return trained(trainer_of(start.model, start, solver, objective, forward_process(s)), start, 1);
  };
  if (s.weighting != Weighting::adaptive) {
    const auto weight = s.weighting == Weighting::one ? cf::time_weight::one
                        : s.weighting == Weighting::t ? cf::time_weight::t
                                                      : cf::time_weight::one_minus_t;
    return train(cf::DpmSolver<2>{}, cf::PaperNft{.beta = s.beta,
                                                  .weight = weight,
                                                  .optimality = optimality,
                                                  .negative_branch = negative,
                                                  .informative_only = s.informative_only} +
                                         s.kl * cf::VelocityKl{});
  }
  const cf::Nft objective{.beta = s.beta,
                          .optimality = optimality,
                          .negative_branch = negative,
                          .informative_only = s.informative_only};
  if (s.kl == 0) return train(cf::DpmSolver<2>{}, objective);
  const auto with_kl = objective + s.kl * cf::VelocityKl{};
  switch (s.collecting) {
    case Collecting::order_1:
      return train(cf::DpmSolver<1>{}, with_kl);
    case Collecting::sde:
      return train(cf::FlowSde{.noise_level = s.noise_level}, with_kl);
    case Collecting::order_2:
      break;
  }
  return train(cf::DpmSolver<2>{}, with_kl);
}

template <class Model>
Run flow_grpo(const Model& model, const Start& start, double cost) {
  const Settings& s = start.settings;
  const cf::RecordedTransitions points{.per_sample = s.transitions, .report_steps = true};
  const cf::FlowSde sde{.noise_level = s.noise_level};
  const cf::Grpo grpo{.clip_range = s.clip_range};
  if (s.kl == 0) return trained(trainer_of(model, start, sde, grpo, points), start, cost);
  const auto with_kl = grpo + s.kl * cf::TransitionKl{};
  return trained(trainer_of(model, start, sde, with_kl, points), start, cost);
}

}  // namespace detail

/// Improves a base.
/// @param base is left as it is
/// @param threads between which batches are divided
/// @param ranks between which the samples are divided
inline Run improved(const SceneFlow& base, const Settings& settings, int threads,
                    const Watched& watched, const support::Ranks& ranks) {
  const detail::Start start{{base.clone(), threads}, settings, watched, ranks};
  switch (settings.method) {
    case Method::flow_grpo:
      return detail::flow_grpo(start.model, start, 1);
    case Method::flow_grpo_guided:
      return detail::flow_grpo(guided(start.model), start, 2);
    default:
      return detail::nft(start);
  }
}

}  // namespace scenes_example
