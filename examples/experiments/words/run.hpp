#pragma once

#include <algorithm>
#include <array>
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

#include "settings.hpp"
#include "support/checkpoints.hpp"
#include "support/ranks.hpp"

namespace words_example {

/// The state of a run at an evaluation.
struct Point {
  double epoch = 0;
  double evaluations = 0;  ///< of the velocity for one sample: forward counts one, backward two
  double seconds = 0;      ///< of training alone
  Scores scores = {};
};

/// What a run gave.
struct Run {
  std::vector<Point> curve;  ///< the first is the base's
  double reading = 0;        ///< share of the seconds of training that the reader took
  WordFlow model;            ///< the averaged weights
  bool is_complete = false;  ///< not interrupted
};

/// Where a run is written down.
struct Watched {
  std::filesystem::path lines;        ///< JSON lines
  std::filesystem::path checkpoints;  ///< folder, from which it goes on
  std::filesystem::path tensorboard;  ///< folder of events
};

/// A number of a score with the name it has in files.
struct Measure {
  const char* name;
  double Score::*of;
};
inline constexpr std::array<Measure, 4> measures{{{"read", &Score::read},
                                                  {"whole", &Score::whole},
                                                  {"matched", &Score::matched},
                                                  {"residual", &Score::residual}}};
/// A list of words with the name it has in files.
struct List {
  const char* name;
  Score Scores::*of;
};
inline constexpr std::array<List, 2> lists{
    {{"known", &Scores::known}, {"kept_out", &Scores::kept_out}}};

namespace detail {

/// What a run is made of.
struct Start {
  cf::OnThreads<WordFlow> model;  ///< a clone, which is trained
  Settings settings;
  Watched watched;
  Judge judge;
  const support::Ranks& ranks;
};

/// The model behind the wrappers that training needs.
inline const WordFlow& bare(const cf::OnThreads<WordFlow>& model) { return model.wrapped(); }
inline const WordFlow& bare(const cf::Guided<cf::OnThreads<WordFlow>, Tensor>& model) {
  return bare(model.wrapped());
}

/// Calls `visit(name, score)` for each number of an evaluation.
template <class Visit>
void each_metric(Scores& scores, Visit&& visit) {
  for (const List& list : lists) {
    for (const Measure& measure : measures) {
      visit(std::string("evaluation/") + list.name + "/" + measure.name,
            scores.*list.of.*measure.of);
    }
  }
}
inline void add_to(cf::EpochReport& report, Scores scores) {
  each_metric(scores, [&](const std::string& name, double& value) { report.add(name, value); });
}
/// The scores that a report holds, if they were measured.
inline std::optional<Scores> scores_in(const cf::EpochReport& report) {
  Scores scores;
  bool is_measured = true;
  each_metric(scores, [&](const std::string& name, double& value) {
    const auto found = report.find(name);
    is_measured = is_measured && found.has_value();
    value = found.value_or(0);
  });
  if (!is_measured) return std::nullopt;
  return scores;
}

/// A trainer for a solver and an objective of any type.
/// @param points ForwardProcess or RecordedTransitions
template <class Model, class Solver, class Objective, class Points>
auto trainer_of(Model model, const Start& start, const Reader& reader, const Solver& solver,
                const Objective& objective, const Points& points) {
  const Settings& s = start.settings;
  const Tensor numbers = words::training_words();
  return cf::Trainer(
      cf::SnapshotPolicy(
          std::move(model),
          cf::SnapshotOptions{.old_decay = cf::Ramp{.rate = 0.02, .max = s.old_most},
                              .average_decay = cf::WarmingUp{.max = s.average_decay}}),
      solver, reader, objective,
      cf::PromptRows(words::tokens_of(words::texts_of(numbers)), captions_of(numbers)),
      cf::Collection{.prompts_per_epoch = s.prompts,
                     .group_size = s.group_size,
                     .grid = cf::uniform_grid(sampling_steps)},
      points, cf::GroupAdvantage{.spread = s.spread},
      cf::Learning{.gradient_steps = s.gradient_steps},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = s.learning_rate}),
                       .learning_rate_factor = cf::InverseRoot{.steps = s.decay_steps}},
      cf::Seed{s.seed}, start.ranks);
}

/// Trains from the newest checkpoint on, and scores the averaged policy where that is due.
/// @param reader of the rewards
/// @param cost of one velocity, in evaluations of the model
template <class Trainer>
Run trained(Trainer trainer, const Start& start, const Reader& reader, double cost) {
  const Settings& s = start.settings;
  const auto average = [&] { return bare(trainer.policy().model(cf::Role::average)); };
  const auto score = [&] {
    return evaluated(cf::OnThreads<WordFlow>(average(), start.model.threads()), start.judge,
                     s.evaluated, start.ranks);
  };
  Run run{{{.scores = score()}}, 0, average(), false};
  double reading = 0, seconds = 0;
  const auto record = [&](const cf::EpochReport& report) {
    reading += report.find("seconds/reader").value_or(0);
    seconds = report.seconds;
    const auto found = scores_in(report);
    if (!found) return;
    run.curve.push_back(
        {double(report.epoch), cost * report.evaluation_cost(), report.seconds, *found});
  };
  for (const auto& report :
       support::resumed(trainer, start.watched.checkpoints, start.watched.lines)) {
    record(report);
  }
  double before = reader.seconds();
  //! [measure]
  const auto measure = [&](auto&, cf::EpochReport& report) {
    report.add("seconds/reader", reader.seconds() - std::exchange(before, reader.seconds()));
    if (report.epoch % s.evaluate_every == 0 || report.epoch == s.epochs) add_to(report, score());
    record(report);
  };
  //! [measure]
  const cf::RunReport report =
      support::run_kept(trainer, s.epochs, start.watched.checkpoints, s.evaluate_every, measure,
                        cf::StopOnInterrupt{}, cf::JsonLines{start.watched.lines},
                        cf::TensorBoard{start.watched.tensorboard}, cf::ProgressBar{});
  run.is_complete = !report.stopped && !cf::StopOnInterrupt::interrupted();
  run.model = cf::clone_of(average());
  run.reading = seconds > 0 ? reading / seconds : 0;
  return run;
}

inline Run nft(const Start& start, const Reader& reader) {
  const Settings& s = start.settings;
  const cf::Optimality optimality{.clip = s.advantage_clip};
  const cf::Nft objective{
      .beta = s.beta, .optimality = optimality, .informative_only = s.informative_only};
  const cf::ForwardProcess points{.times = cf::StratifiedTimes{.per_sample = s.times}};
  const cf::DpmSolver<2> solver;
  const auto train = [&](const auto& terms) {
    return trained(trainer_of(start.model, start, reader, solver, terms, points), start, reader, 1);
  };
  if (s.kl == 0) return train(objective);
  return train(objective + s.kl * cf::VelocityKl{});
}

template <class Model>
Run flow_grpo(const Model& model, const Start& start, const Reader& reader, double cost) {
  const Settings& s = start.settings;
  const cf::RecordedTransitions points{.per_sample = s.transitions};
  const cf::FlowSde sde{.noise_level = s.noise_level};
  const cf::Grpo grpo{.clip_range = s.clip_range};
  const auto train = [&](const auto& terms) {
    return trained(trainer_of(model, start, reader, sde, terms, points), start, reader, cost);
  };
  if (s.kl == 0) return train(grpo);
  return train(grpo + s.kl * cf::TransitionKl{});
}

}  // namespace detail

/// Improves a base.
/// @param base is left as it is
/// @param threads between which batches and images to read are divided
/// @param ranks between which the samples are divided
inline Run improved(const WordFlow& base, const Judge& judge, const Settings& settings, int threads,
                    const Watched& watched, const support::Ranks& ranks) {
  const detail::Start start{{base.clone(), threads}, settings, watched, judge, ranks};
  const Reader reader(threads);  // counts the rewards' seconds alone
  switch (settings.method) {
    case Method::flow_grpo:
      return detail::flow_grpo(start.model, start, reader, 1);
    case Method::flow_grpo_guided:
      return detail::flow_grpo(guided(start.model), start, reader, 2);
    default:
      return detail::nft(start, reader);
  }
}

}  // namespace words_example
