#pragma once

/// @file
/// Scores of the averaged weights on prompts and noise of their own.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/observe/report.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/train/collector.hpp>
#include <contraflow/train/epoch_watch.hpp>
#include <contraflow/train/scorer.hpp>

namespace contraflow {

/// When and how the average of the weights is evaluated: a component of a Trainer.
struct EvaluationOptions {
  std::int64_t every = 0;        ///< epochs between evaluations; 0: never
  std::int64_t samples = 256;    ///< at least 1
  std::int64_t batch = 0;        ///< most samples generated and scored at a time; 0: no limit
  TimeGrid grid = sd3_grid(40);  ///< 40 first-order steps as published
  std::uint64_t seed = 0;        ///< of the noise
};

/// Scores of the averaged weights on fixed prompts and noise.
struct Evaluation {
  /// Weighted sum of the mean scores, not normalised, each of the samples that the reward has
  /// scored; NaN where no sample has a score.
  double reward = std::numeric_limits<double>::quiet_NaN();
  std::vector<Metric> scores = {};  ///< mean of each reward, where it has scored a sample
  /// Number of samples from which each reward abstains; empty where none can.
  std::vector<Metric> abstained = {};
  std::int64_t masked = 0;                 ///< samples without a score
  std::vector<std::string> failures = {};  ///< what() of exceptions that rewards threw
  Tensor x0 = {};                          ///< the samples [N, ...]
};

/// Stands for the prompts of the training.
struct TrainingPrompts {};

/// Evaluates the averaged role on prompts and noise of its own, in batches, with a solver and a
/// grid of its own: a component of a Trainer where EvaluationOptions are not enough.
///
/// `cf::Evaluator(cf::EvaluationOptions{.every = 10}, cf::DpmSolver<2>{}, held_out_prompts)`.
template <class S = DpmSolver<1>, class Prompts = TrainingPrompts>
class Evaluator {
 public:
  /// @param options when and how
  /// @param solver a Solver or a Sampler
  /// @param prompts a PromptSource with conditions like those of the training
  /// @throws Error if an option is out of range
  explicit Evaluator(EvaluationOptions options = {}, S solver = {}, Prompts prompts = {})
      : options_(std::move(options)), solver_(std::move(solver)), prompts_(std::move(prompts)) {
    static_assert(explain_solver<S>());
    expects(options_.every >= 0, "every", "at least 0", options_.every);
    expects(options_.samples >= 1, "samples", "at least 1", options_.samples);
    expects(options_.batch >= 0, "batch", "at least 0", options_.batch);
  }

  /// When and how.
  const EvaluationOptions& options() const { return options_; }
  /// Whether an evaluation is due behind an epoch.
  bool is_due(std::int64_t epoch) const {
    return options_.every > 0 && epoch % options_.every == 0;
  }
  /// The evaluator's prompts, or those of the training.
  template <class Training>
  const auto& prompts_or(const Training& training) const {
    if constexpr (std::same_as<Prompts, TrainingPrompts>) {
      return training;
    } else {
      return prompts_;
    }
  }

  /// Generates and scores: collective; each rank does its share, and all have the result.
  /// @param policy whose role `average` is evaluated
  /// @param rewards a bag
  /// @param prompts in turn
  /// @param sample_shape of one sample
  /// @param communicator of the ranks
  /// @param watch is asked meanwhile
  /// @throws EpochGivenUp where it is given up
  template <class P, class R, class Source, class Comm = Alone>
  Evaluation evaluate(P& policy, const R& rewards, const Source& prompts,
                      const std::vector<std::int64_t>& sample_shape, const Comm& communicator = {},
                      const EpochWatch& watch = {}) const {
    const Share own = share_of(options_.samples, communicator.rank(), communicator.size());
    std::vector<Tensor> samples;
    std::vector<ScoreSheet> sheets;
    Evaluation result;
    [[maybe_unused]] const auto whole = gathered(policy, Role::average);
    watch.together(communicator, [&] {
      score(policy, rewards, prompts, sample_shape, own, watch, samples, sheets);
    });
    ScoreSheet sheet = joined_sheets(std::move(sheets));
    result.failures = std::move(sheet.failures);
    result.x0 = communicator.gather(
        samples.empty() ? at::empty(batch_shape(0, sample_shape), sample_options(policy))
                        : at::cat(samples));
    if constexpr (!is_alone<Comm>) {
      result.failures = gathered_lines(communicator, result.failures);
    }
    summarise(rewards, sheet_of_all(communicator, std::move(sheet)), result);
    return result;
  }

 private:
  /// Generates and scores a rank's share, batch by batch.
  template <class P, class R, class Source>
  void score(P& policy, const R& rewards, const Source& prompts,
             const std::vector<std::int64_t>& sample_shape, const Share& own,
             const EpochWatch& watch, std::vector<Tensor>& samples,
             std::vector<ScoreSheet>& sheets) const {
    const std::int64_t most = options_.batch > 0 ? options_.batch : options_.samples;
    const Generator stream = seeded(options_.seed).stream(Purpose::evaluation);
    EvaluationCount uncounted;
    prepare_prompts(prompts, at::arange(own.first, own.last, at::kLong).remainder(prompts.size()));
    for (std::int64_t first = own.first; first < own.last; first += most) {
      const Tensor id = at::arange(first, std::min(first + most, own.last), at::kLong);
      const Tensor prompt = id.remainder(prompts.size());
      samples.push_back(generated(policy, Role::average, solver_, options_.grid,
                                  prompts.condition(prompt), {stream, id, sample_shape}, uncounted,
                                  watch));
      sheets.push_back(rewards.score(samples.back(), reference_of(prompts, prompt)));
    }
  }

  template <class R>
  static void summarise(const R& rewards, const ScoreSheet& sheet, Evaluation& result) {
    const Tensor valid = scored_samples(sheet);
    const Tensor scores = sheet.scores.index_select(1, valid);
    result.masked = sheet.scores.size(1) - valid.numel();
    for (std::size_t i = 0; i < sheet.names.size(); ++i) {
      const auto row = static_cast<std::int64_t>(i);
      const std::string& name = sheet.names[i];
      if (const auto mean = mean_score(scores[row])) result.scores.push_back({name, *mean});
      if (!sheet.abstained.defined()) continue;
      result.abstained.push_back({name, sheet.abstained[row].sum().template item<double>()});
    }
    if (valid.numel() == 0) return;
    result.reward = rewards.combine_raw(scores).mean().template item<double>();
  }

  EvaluationOptions options_;
  S solver_;
  Prompts prompts_;
};

namespace detail {
template <class T>
inline constexpr bool is_evaluator = false;
template <class S, class Prompts>
inline constexpr bool is_evaluator<Evaluator<S, Prompts>> = true;
/// Nothing where none is due, or the run is to end: then the epoch stands without it.
template <class E, class Evaluate, class Warn>
std::optional<Evaluation> due_evaluation(const E& evaluator, std::int64_t epoch,
                                         Evaluate&& evaluate, Warn&& warn) {
  if (!evaluator.is_due(epoch)) return std::nullopt;
  try {
    return evaluate();
  } catch (const EpochGivenUp&) {
    warn(Warning{"evaluation/interrupted", 1, "the run was interrupted during an evaluation"});
    return std::nullopt;
  }
}

template <class Warn>
void warn_of(const Evaluation& evaluation, Warn&& warn) {
  for (const std::string& failure : evaluation.failures) {
    warn(Warning{"evaluation/failure", 1, failure});
  }
  if (evaluation.scores.empty() && evaluation.failures.empty()) {
    warn(Warning{"evaluation/masked", double(evaluation.masked),
                 "no sample of this evaluation has a score"});
  }
}

inline void add_scores(EpochReport& report, const Evaluation& evaluation) {
  for (const Metric& score : evaluation.scores) {
    report.add("evaluation/score/" + score.name, score.value);
  }
  for (const Metric& abstained : evaluation.abstained) {
    report.add("evaluation/abstained/" + abstained.name, abstained.value);
    const std::string score = "evaluation/score/" + abstained.name;
    if (!report.find(score)) report.later.push_back(score);
  }
}

/// Evaluates behind an epoch where that is due, and adds what came of it to the epoch's report.
/// @param evaluator which knows when
/// @param epoch that is finished, and stands whatever becomes of its evaluation
/// @param evaluate gives the Evaluation: collective
/// @param report is added to
/// @param warn told of what a person should know
template <class E, class Evaluate, class Warn>
void evaluate_if_due(const E& evaluator, std::int64_t epoch, Evaluate&& evaluate,
                     EpochReport& report, Warn&& warn) {
  if (evaluator.options().every == 0) return;
  std::optional<double> reward, masked;
  if (const auto evaluation = due_evaluation(evaluator, epoch, evaluate, warn)) {
    warn_of(*evaluation, warn);
    if (!evaluation->scores.empty()) reward = evaluation->reward;
    masked = double(evaluation->masked);
    add_scores(report, *evaluation);
  } else {
    report.later.push_back("evaluation/abstained");
  }
  if (!reward) report.later.push_back("evaluation/score");
  report.add("evaluation/reward", reward);
  report.add("evaluation/masked", masked);
}

}  // namespace detail

}  // namespace contraflow
