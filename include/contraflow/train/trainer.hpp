#pragma once

/// @file
/// Online reinforcement learning: collect, score, update.

#include <chrono>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/advantage/advantages.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/observe/concept.hpp>
#include <contraflow/reward/combination.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/train/updater.hpp>

namespace contraflow {

/// When and how the average of the weights is evaluated: fixed prompts, fixed noise.
struct EvaluationOptions {
  std::int64_t every = 0;        ///< epochs between evaluations; 0: never
  std::int64_t samples = 256;    ///< at least 1
  TimeGrid grid = sd3_grid(40);  ///< 40 first-order steps as published
  std::uint64_t seed = 0;        ///< of the noise
};

/// Settings of a run; defaults are those published for Stable Diffusion 3.5 Medium.
struct TrainerOptions {
  std::int64_t prompts_per_epoch = 48;  ///< at least 1
  std::int64_t group_size = 24;         ///< samples a prompt, at least 2
  TimeGrid grid = sd3_grid(10);         ///< on which samples are collected
  std::int64_t rollout_batch = 0;       ///< most samples generated at a time; 0: no limit
  bool asynchronous_scoring = false;    ///< score a batch while the next one is generated
  double recorded_fraction = 0.99;      ///< share of the grid's steps whose transitions are trained
  UpdateOptions update = {};            ///< how samples become gradient steps
  EvaluationOptions evaluation = {};    ///< when and how the average is evaluated
  std::vector<std::int64_t> sample_shape = {};  ///< only needed if the model does not know it
  std::uint64_t seed = 0;                       ///< of everything that is drawn
};

/// Scores of the averaged weights on fixed prompts and noise.
struct Evaluation {
  double reward = 0;           ///< weighted sum of the mean scores, not normalised
  std::vector<Metric> scores;  ///< mean of each reward
  std::int64_t masked = 0;     ///< samples without a score
  Tensor x0;                   ///< the samples [N, ...]
};

namespace detail {

struct IsPromptSource {
  template <class T>
  static constexpr bool value = PromptSource<T>;
};
struct IsAdvantage {
  template <class T>
  static constexpr bool value = Advantage<T>;
};
struct IsTrainingTimes {
  template <class T>
  static constexpr bool value = TrainingTimes<T>;
};

/// The first of @p components that @p Is accepts, or a default.
template <class Is, class Default, class... Components>
struct PickType {
  using type = Default;
};
template <class Is, class Default, class First, class... Rest>
struct PickType<Is, Default, First, Rest...> {
  using type = std::conditional_t<Is::template value<First>, First,
                                  typename PickType<Is, Default, Rest...>::type>;
};
template <class Is, class Default, class... Components>
using Pick = typename PickType<Is, Default, Components...>::type;

template <class Is, class Default>
Default pick() {
  return Default{};
}
template <class Is, class Default, class First, class... Rest>
auto pick(First&& first, Rest&&... rest) {
  if constexpr (Is::template value<std::remove_cvref_t<First>>) {
    return std::forward<First>(first);
  } else {
    return pick<Is, Default>(std::forward<Rest>(rest)...);
  }
}

template <class T>
concept Component = PromptSource<T> || Advantage<T> || TrainingTimes<T>;

/// Wall-clock seconds since construction or the last lap.
class Clock {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace detail

/// Online reinforcement learning of a flow: collect, score, update.
///
/// An epoch draws `prompts_per_epoch` prompts, `group_size` samples each with the collecting role,
/// scores them, turns scores into advantages, and makes gradient steps on the objective. What the
/// objective does not need is neither computed nor stored.
///
/// `Trainer(policy, solver, rewards, objective, options, components...)`: rewards may be a bag made
/// by rewards(...) or a single Reward; components may be a PromptSource (default NoPrompts), an
/// Advantage (default GroupAdvantage) and TrainingTimes (default GridTimes), in any order. The same
/// seed and number of threads give the same bits.
template <class P, class S, class R, class O, class Prompts, class A, class Times>
class Trainer {
 public:
  using Record = RecordOf<O>;  ///< what the rollout records
  /// What the prompts give.
  using C = decltype(std::declval<const Prompts&>().condition(std::declval<const Tensor&>()));

  /// @param policy answers for the roles; is trained
  /// @param solver a Solver, a StochasticSolver where the objective needs one, or a Sampler
  /// @param rewards a bag made by rewards(), or a Reward
  /// @param objective a Term, or a sum of them
  /// @param options settings
  /// @param components a PromptSource, an Advantage, TrainingTimes: any of them, in any order
  /// @throws Error if an option is out of range, or nobody knows the shape of a sample
  template <class RawRewards, class RawObjective, class... Components>
  Trainer(P policy, S solver, RawRewards rewards, RawObjective objective,
          TrainerOptions options = {}, Components... components)
      : policy_(std::move(policy)),
        solver_(std::move(solver)),
        rewards_(as_rewards(std::move(rewards))),
        prompts_(detail::pick<detail::IsPromptSource, NoPrompts>(components...)),
        advantage_(detail::pick<detail::IsAdvantage, GroupAdvantage>(components...)),
        options_(checked(std::move(options))),
        generator_(seeded(options_.seed)),
        updater_(policy_, as_sum(std::move(objective)), prompts_,
                 detail::pick<detail::IsTrainingTimes, GridTimes>(components...), options_.update) {
    static_assert(explain_prompt_source<Prompts>());
    static_assert(explain_solver<S>());
    static_assert(explain_advantage<A>());
    if constexpr (O::uses_transitions) static_assert(explain_stochastic_solver<S>());
    static_assert((detail::Component<Components> && ...),
                  "contraflow: a component of a Trainer must be a PromptSource, an Advantage or "
                  "TrainingTimes");
    if (options_.sample_shape.empty()) options_.sample_shape = shape_of_policy();
  }

  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Trains until @p epochs epochs are finished in total, or until an observer asks for the end.
  /// @param epochs total, those of a resumed run included
  /// @param observers told in this order
  /// @return how it ended
  /// @throws Error from an observer, or from an option of a part that is out of range
  /// @par Random numbers
  /// from the trainer's own generator
  template <class... Os>
  RunReport run(std::int64_t epochs, Os&&... observers) {
    Observers<std::remove_reference_t<Os>...> all(observers...);
    all.start({epoch_ + 1, epochs});
    RunReport report{epoch_, false, {}, {}};
    while (epoch_ < epochs && !report.stopped) {
      report.last = run_epoch([&](const Warning& warning) { all.warn(warning); });
      const Verdict verdict = all(report.last);
      report.epochs = epoch_;
      report.stopped = verdict.stop;
      report.reason = verdict.reason;
    }
    all.finish(report);
    return report;
  }

  /// One epoch: collect, score, update, evaluate where it is due.
  EpochReport run_epoch() {
    return run_epoch([](const Warning&) {});
  }

  /// Evaluates the averaged weights on fixed prompts and noise with first-order steps.
  Evaluation evaluate() { return evaluate(prompts_); }

  /// Evaluates on prompts of another source with the same kind of condition.
  template <class OtherPrompts>
  Evaluation evaluate(const OtherPrompts& prompts) {
    Generator generator = seeded(stream_seed(options_.evaluation.seed, 1));
    const std::int64_t count = options_.evaluation.samples;
    const Tensor ids = at::arange(count, at::kLong).remainder(prompts.size());
    const C condition = prompts.condition(ids);
    const Tensor noise = normal(batch_shape(count), generator, tensor_options());
    Evaluation result;
    result.x0 = generated(DpmSolver<1>{}, Role::average, noise, condition, options_.evaluation.grid,
                          generator, NoHook{});
    const ScoreSheet sheet = rewards_.score(result.x0, condition);
    const Tensor valid = sheet.scores.isfinite().all(0);
    const Tensor scores = sheet.scores.index_select(1, valid.nonzero().flatten());
    result.masked = count - scores.size(1);
    if (result.masked == count) return result;
    result.reward = rewards_.combine_raw(scores).mean().template item<double>();
    for (std::size_t i = 0; i < sheet.names.size(); ++i) {
      result.scores.push_back(
          {sheet.names[i], scores[std::int64_t(i)].mean().template item<double>()});
    }
    return result;
  }

  /// Clean samples of a role for the prompts @p ids, by the trainer's own solver and grid.
  /// @param ids int64 [N]
  /// @param seed of the noise
  /// @param role whose velocity is followed, one that the policy keeps
  Tensor sample(const Tensor& ids, std::uint64_t seed, Role role = Role::average) {
    Generator generator = seeded(stream_seed(seed, 2));
    const Tensor noise = normal(batch_shape(ids.numel()), generator, tensor_options());
    return generated(solver_, role, noise, prompts_.condition(ids), options_.grid, generator,
                     NoHook{});
  }
  /// @p count samples, prompts in turn.
  Tensor sample(std::int64_t count, std::uint64_t seed = 0, Role role = Role::average) {
    return sample(at::arange(count, at::kLong).remainder(prompts_.size()), seed, role);
  }

  /// The policy that is trained.
  P& policy() { return policy_; }
  /// The objective, as a Sum.
  const O& objective() const { return updater_.objective(); }
  /// The settings, with the shape of a sample filled in.
  const TrainerOptions& options() const { return options_; }
  /// The optimiser, as its factory made it.
  torch::optim::Optimizer& optimizer() { return updater_.optimizer(); }
  /// What the loss is multiplied by.
  LossScale& loss_scale() { return updater_.loss_scale(); }
  /// The source of everything that is drawn.
  Generator& generator() { return generator_; }
  /// Epochs finished, those of a resumed run included.
  std::int64_t epoch() const { return epoch_; }
  /// Gradient steps made, those of a resumed run included.
  std::int64_t gradient_steps() const { return updater_.gradient_steps(); }
  /// Velocities computed, those of a resumed run included.
  const EvaluationCount& evaluations() const { return updater_.evaluations(); }
  /// Seconds of training so far, evaluations not counted.
  double seconds() const { return seconds_; }

  /// Continues the counts of an earlier run; the tensors are the policy's and the optimiser's.
  void resume(std::int64_t epoch, std::int64_t gradient_steps, EvaluationCount evaluations,
              double seconds) {
    epoch_ = epoch;
    seconds_ = seconds;
    updater_.resume(gradient_steps, evaluations);
  }

 private:
  static TrainerOptions checked(TrainerOptions options) {
    expects(options.prompts_per_epoch >= 1, "prompts_per_epoch", "at least 1",
            options.prompts_per_epoch);
    expects(options.group_size >= 2, "group_size",
            "at least 2 (advantages compare the samples of a prompt)", options.group_size);
    expects(options.rollout_batch >= 0, "rollout_batch", "at least 0", options.rollout_batch);
    expects(options.recorded_fraction > 0 && options.recorded_fraction <= 1, "recorded_fraction",
            "a value in (0, 1]", options.recorded_fraction);
    expects(options.evaluation.every >= 0, "evaluation.every", "at least 0",
            options.evaluation.every);
    expects(options.evaluation.samples >= 1, "evaluation.samples", "at least 1",
            options.evaluation.samples);
    return options;
  }

  std::vector<std::int64_t> shape_of_policy() {
    if constexpr (requires { policy_.sample_shape(); }) {
      return policy_.sample_shape();
    } else {
      throw Error("sample_shape", "the shape of a sample, since the model has no sample_shape()",
                  "nothing");
    }
  }

  std::vector<std::int64_t> batch_shape(std::int64_t count) const {
    std::vector<std::int64_t> shape{count};
    shape.insert(shape.end(), options_.sample_shape.begin(), options_.sample_shape.end());
    return shape;
  }
  at::TensorOptions tensor_options() {
    return at::device(policy_.parameters().front().device()).dtype(at::kFloat);
  }

  /// Samples of a role.
  template <class AnySolver, class Hook>
  Tensor generated(const AnySolver& solver, Role role, const Tensor& noise, const C& condition,
                   const TimeGrid& grid, Generator& generator, Hook&& hook) {
    auto velocity = [&](const Tensor& x, double sigma) {
      const Tensor t = at::full({x.size(0)}, sigma, x.options());
      if (counts_) updater_.evaluations().forward += x.size(0);
      return policy_.velocity(role, x, t, condition);
    };
    return sampled(solver, velocity, noise, grid, generator, std::forward<Hook>(hook));
  }

  /// An epoch's samples with their scores, as they come out of the rewards.
  struct Collected {
    Rollout<Record> rollout;
    ScoreSheet sheet;
  };

  Collected collect() {
    const std::int64_t groups = options_.prompts_per_epoch;
    const std::int64_t count = groups * options_.group_size;
    const S solver = solver_of_epoch();
    Collected collected;
    Rollout<Record>& rollout = collected.rollout;
    rollout.prompt =
        draw_prompts(prompts_.size(), groups, generator_).repeat_interleave(options_.group_size);
    rollout.group = at::arange(groups, at::kLong).repeat_interleave(options_.group_size);
    rollout.x0 = at::empty(batch_shape(count), tensor_options());
    Recorder<Record> recorder(rollout.record, solver, options_.grid, options_.recorded_fraction,
                              rollout.x0);
    const std::int64_t most = options_.rollout_batch > 0 ? options_.rollout_batch : count;
    std::vector<std::future<ScoreSheet>> sheets;
    counts_ = true;
    for (std::int64_t first = 0; first < count; first += most) {
      const std::int64_t size = std::min(most, count - first);
      const C condition = prompts_.condition(rollout.prompt.narrow(0, first, size));
      const Tensor noise = normal(batch_shape(size), generator_, tensor_options());
      const Tensor x0 = generated(solver, O::collector, noise, condition, options_.grid, generator_,
                                  recorder.hook(first));
      rollout.x0.narrow(0, first, size).copy_(x0);
      sheets.push_back(scored(x0, condition));
    }
    counts_ = false;
    collected.sheet = joined(sheets);
    return collected;
  }

  S solver_of_epoch() const {
    if constexpr (HasEpochs<S>) {
      return solver_.at_epoch(epoch_);
    } else {
      return solver_;
    }
  }

  std::future<ScoreSheet> scored(const Tensor& x0, const C& condition) {
    const auto policy = options_.asynchronous_scoring ? std::launch::async : std::launch::deferred;
    return std::async(policy, [this, x0, condition] {
      const at::NoGradGuard no_gradient;
      return rewards_.score(x0, condition);
    });
  }

  static ScoreSheet joined(std::vector<std::future<ScoreSheet>>& futures) {
    ScoreSheet all;
    std::vector<Tensor> scores;
    for (auto& future : futures) {
      ScoreSheet sheet = future.get();
      all.names = std::move(sheet.names);
      scores.push_back(sheet.scores);
      all.failures.insert(all.failures.end(), sheet.failures.begin(), sheet.failures.end());
    }
    all.scores = at::cat(scores, 1);
    return all;
  }

  template <class Warn>
  EpochReport run_epoch(Warn&& warn) {
    const detail::Clock clock;
    EpochReport report;
    const Collected collected = collect();
    report.metrics.push_back({"seconds/collect", clock.seconds()});
    for (const std::string& failure : collected.sheet.failures) {
      warn(Warning{"reward/failure", 1, failure});
    }
    const Tensor valid = collected.sheet.scores.isfinite().all(0).nonzero().flatten();
    add_score_metrics(report, collected.sheet, valid);
    if (valid.numel() > 0) {
      train(report, collected, valid);
    } else {
      warn(Warning{"reward/masked", double(collected.sheet.scores.size(1)),
                   "no sample of this epoch has a score: nothing was trained"});
    }
    policy_.after_epoch(updater_.gradient_steps());
    ++epoch_;
    seconds_ += clock.seconds();
    report.metrics.push_back({"seconds/epoch", clock.seconds()});
    report.epoch = epoch_;
    report.seconds = seconds_;
    report.gradient_steps = updater_.gradient_steps();
    report.forward_evaluations = updater_.evaluations().forward;
    report.backward_evaluations = updater_.evaluations().backward;
    add_evaluation(report);
    return report;
  }

  void train(EpochReport& report, const Collected& collected, const Tensor& valid) {
    const auto& [rollout, sheet] = collected;
    Scores scores;
    scores.reward = rewards_.combine(sheet.scores.index_select(1, valid));
    scores.group = rollout.group.index_select(0, valid);
    scores.advantage = advantage_(scores.reward, scores.group);
    const GroupStatistics groups = group_statistics(scores.reward, scores.group);
    report.metrics.push_back({"reward/mean", scores.reward.mean().template item<double>()});
    report.metrics.push_back({"reward/std", scores.reward.std(false).template item<double>()});
    report.metrics.push_back({"zero_std_ratio", groups.zero_std_ratio});
    report.metrics.push_back({"reward/group_std", groups.mean_std});
    const UpdateReport update = updater_.update(rollout, valid, scores, options_.grid, generator_);
    add_update_metrics(report, update);
  }

  void add_score_metrics(EpochReport& report, const ScoreSheet& sheet, const Tensor& valid) {
    report.metrics.push_back({"reward/masked", double(sheet.scores.size(1) - valid.numel())});
    for (std::size_t i = 0; i < sheet.names.size() && valid.numel() > 0; ++i) {
      const Tensor scores = sheet.scores[std::int64_t(i)].index_select(0, valid);
      report.metrics.push_back({"score/" + sheet.names[i], scores.mean().template item<double>()});
    }
  }

  void add_update_metrics(EpochReport& report, const UpdateReport& update) {
    add_metrics(report, update);
    if constexpr (requires { policy_.old_deviation(); }) {
      report.metrics.push_back({"old_deviation", policy_.old_deviation()});
    }
  }

  void add_evaluation(EpochReport& report) {
    const std::int64_t every = options_.evaluation.every;
    if (every == 0 || epoch_ % every != 0) return;
    const Evaluation evaluation = evaluate();
    report.metrics.push_back({"evaluation/reward", evaluation.reward});
    for (const Metric& score : evaluation.scores) {
      report.metrics.push_back({"evaluation/score/" + score.name, score.value});
    }
    report.metrics.push_back({"evaluation/masked", double(evaluation.masked)});
  }

  P policy_;
  S solver_;
  R rewards_;
  Prompts prompts_;
  A advantage_;
  TrainerOptions options_;
  Generator generator_;
  Updater<P, O, Prompts, Times> updater_;
  std::int64_t epoch_ = 0;
  double seconds_ = 0;
  bool counts_ = false;
};

/// Deduces the types of all parts.
template <class P, class S, class R, class O, class... Components>
Trainer(P, S, R, O, TrainerOptions, Components...)
    -> Trainer<P, S, decltype(as_rewards(std::declval<R>())), decltype(as_sum(std::declval<O>())),
               detail::Pick<detail::IsPromptSource, NoPrompts, Components...>,
               detail::Pick<detail::IsAdvantage, GroupAdvantage, Components...>,
               detail::Pick<detail::IsTrainingTimes, GridTimes, Components...>>;

/// Deduces the types of all parts, with the published defaults.
template <class P, class S, class R, class O>
Trainer(P, S, R, O)
    -> Trainer<P, S, decltype(as_rewards(std::declval<R>())), decltype(as_sum(std::declval<O>())),
               NoPrompts, GroupAdvantage, GridTimes>;

}  // namespace contraflow
