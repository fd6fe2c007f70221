#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
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

/// Where a run is written down and shown.
struct Watched {
  std::filesystem::path lines;             ///< JSON lines
  std::filesystem::path tensorboard = {};  ///< folder of TensorBoard events; empty: none
  bool shows_progress = false;
};

namespace detail {

/// Adds the strict score on the kept-out prompts to the reports that are due for it, and passes
/// them on to files and screen.
class Watchers {
 public:
  using Score = std::function<StrictScore(const cf::EpochReport&)>;

  Watchers(const Watched& watched, std::int64_t every, Score score)
      : every_(every), score_(std::move(score)), lines_(watched.lines) {
    if (!watched.tensorboard.empty()) tensorboard_.emplace(watched.tensorboard);
    if (watched.shows_progress) bar_.emplace();
  }

  void start(const cf::RunInfo& info) {
    each([&](auto& observer) { cf::Observers(observer).start(info); });
  }
  void warn(const cf::Warning& warning) {
    each([&](auto& observer) { cf::Observers(observer).warn(warning); });
  }
  void finish(const cf::RunReport& report) {
    each([&](auto& observer) { cf::Observers(observer).finish(report); });
  }
  void operator()(cf::EpochReport report) {
    if (report.epoch % every_ == 0) {
      const StrictScore strict = score_(report);
      report.metrics.push_back({"evaluation/strict", strict.overall});
      for (const scenes::Category category : scenes::categories) {
        report.metrics.push_back({std::string("evaluation/strict/") + scenes::name_of(category),
                                  strict.by_category[std::size_t(category)]});
      }
    }
    each([&](auto& observer) { observer(report); });
  }

 private:
  template <class F>
  void each(F&& f) {
    f(lines_);
    if (tensorboard_) f(*tensorboard_);
    if (bar_) f(*bar_);
  }

  std::int64_t every_;
  Score score_;
  cf::JsonLines lines_;
  std::optional<cf::TensorBoard> tensorboard_;
  std::optional<cf::ProgressBar> bar_;
};

/// The model behind the wrappers that training needs.
inline const SceneFlow& bare(const cf::OnThreads<SceneFlow>& model) { return model.wrapped(); }
inline const SceneFlow& bare(const cf::Guided<cf::OnThreads<SceneFlow>, Tensor>& model) {
  return bare(model.wrapped());
}

inline cf::TrainerOptions trainer_options(const Settings& s) {
  return {.prompts_per_epoch = s.prompts,
          .group_size = s.group_size,
          .grid = cf::uniform_grid(sampling_steps),
          .update = {.gradient_steps = s.gradient_steps,
                     .shared_noise = s.shared_noise,
                     .transitions_per_sample = s.transitions,
                     .optimizer = cf::adamw({.learning_rate = s.learning_rate}),
                     .learning_rate_factor = cf::InverseRoot{.steps = s.decay_steps}},
          .seed = s.seed};
}

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

/// Training times, whichever the settings ask for.
using Times = std::function<Tensor(std::int64_t, const cf::TimeGrid&, cf::Generator&)>;
inline Times times_of(const Settings& s) {
  if (s.times > 0) return cf::StratifiedTimes{.per_sample = s.times};
  return cf::GridTimes{};
}

/// What the runs of one base share.
struct Start {
  cf::OnThreads<SceneFlow> model;  ///< a clone, which is trained
  Settings settings;
  Watched watched;
};

/// Trains with a solver and an objective of any type.
/// @param cost of one velocity, in evaluations of the model
template <class Model, class Solver, class Objective>
Run trained(Model model, const Start& start, double cost, const Solver& solver,
            const Objective& objective) {
  const Settings& s = start.settings;
  cf::SnapshotPolicy policy(std::move(model),
                            {.old_decay = s.old_decay,
                             .average_decay = cf::WarmingUp{.max = s.average_decay},
                             .average_every = s.average_every});
  const cf::PromptRows<Tensor> prompts(tokens_of(scenes::training_prompts()));
  cf::Trainer trainer(std::move(policy), solver, rewards_of(s.method), objective,
                      trainer_options(s), prompts, times_of(s),
                      cf::GroupAdvantage{.spread = s.spread});
  const auto average = [&] { return bare(trainer.policy().model(cf::Role::average)); };
  const auto score = [&] {
    return evaluated(cf::OnThreads<SceneFlow>(average(), start.model.threads()));
  };
  Run run{s, {{.strict = score()}}, 0, average(), false};
  const auto record = [&](const cf::EpochReport& report) {
    const double evaluations =
        cost * (double(report.forward_evaluations) + 2 * double(report.backward_evaluations));
    run.curve.push_back({double(report.epoch), evaluations, report.seconds, score()});
    return run.curve.back().strict;
  };
  const cf::RunReport report = trainer.run(
      s.epochs, Watchers(start.watched, s.evaluate_every, record), cf::StopOnInterrupt{});
  if (double(report.epochs) > run.curve.back().epoch) record(report.last);
  run.is_complete = !cf::StopOnInterrupt::interrupted();
  run.model = cf::clone_of(average());
  run.diversity = diversity(run.model);
  return run;
}

inline Run nft(const Start& start) {
  const Settings& s = start.settings;
  const cf::Optimality optimality{.clip = s.advantage_clip};
  const bool negative = s.method != Method::nft_positive;
  const auto train = [&](const auto& solver, const auto& objective) {
    return trained(start.model, start, 1, solver, objective);
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
  switch (s.collection) {
    case Collection::order_1:
      return train(cf::DpmSolver<1>{}, with_kl);
    case Collection::sde:
      return train(cf::FlowSde{.noise_level = s.noise_level}, with_kl);
    case Collection::order_2:
      break;
  }
  return train(cf::DpmSolver<2>{}, with_kl);
}

template <class Model>
Run flow_grpo(const Model& model, const Start& start, double cost) {
  const Settings& s = start.settings;
  const cf::FlowSde sde{.noise_level = s.noise_level};
  const cf::Grpo grpo{.clip_range = s.clip_range};
  if (s.kl == 0) return trained(model, start, cost, sde, grpo);
  return trained(model, start, cost, sde, grpo + s.kl * cf::TransitionKl{});
}

}  // namespace detail

/// Improves a base.
/// @param base is left as it is
/// @param threads between which batches are divided
inline Run improved(const SceneFlow& base, const Settings& settings, int threads,
                    const Watched& watched) {
  const detail::Start start{{base.clone(), threads}, settings, watched};
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
