#pragma once

/// @file
/// Online reinforcement learning: collect, score, learn, evaluate.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/stopwatch.hpp>
#include <contraflow/train/composition.hpp>
#include <contraflow/train/training.hpp>

namespace contraflow {

/// A Trainer whose composition makes sense, see there.
template <class P, class S, class R, class O, class... Components>
class OnlineTrainer
    : public Training<OnlineTrainer<P, S, R, O, Components...>, P, O,
                      typename detail::Composition<P, S, R, O, Components...>::Prompts,
                      detail::Pick<detail::CommunicatorKind, Alone, Components...>> {
  using Parts = detail::Composition<P, S, R, O, Components...>;
  using Comm = detail::Pick<detail::CommunicatorKind, Alone, Components...>;
  using Base = Training<OnlineTrainer, P, O, typename Parts::Prompts, Comm>;

 public:
  using Record = RecordOf<O>;  ///< what the rollout records

  /// See Trainer.
  OnlineTrainer(P policy, S solver, R rewards, O objective, const Components&... components)
      : Base(std::move(policy), std::move(objective),
             detail::pick<detail::PromptKind, NoPrompts>(components...),
             detail::pick<detail::SeedKind, Seed>(components...).value,
             detail::pick<detail::LearningKind, Learning>(components...),
             detail::pick<detail::OptimizationKind, Optimization>(components...), adamw(),
             detail::pick<detail::CommunicatorKind, Alone>(components...)),
        options_(with_shape(detail::pick<detail::CollectionKind, Collection>(components...))),
        most_unscored_epochs_(
            detail::pick<detail::LearningKind, Learning>(components...).most_unscored_epochs),
        ahead_(Parts::looks_ahead ? detail::pick<detail::AheadKind, Ahead>(components...).epochs
                                  : 0),
        collector_(detail::CollectorMaker<Parts::collects>::template of<typename Parts::Collects>(
            std::move(solver), options_,
            detail::pick<detail::TransitionsKind, RecordedTransitions>(components...),
            O::compares_samples ? 2 : 1)),
        scorer_(std::move(rewards),
                detail::pick<detail::AdvantageKind, GroupAdvantage>(components...), this->source_,
                ahead_ > 0 || (Parts::collects ? !collects_at_once : options_.asynchronous_scoring),
                this->communicator_, detail::pick<detail::ScoringKind, Scoring>(components...)),
        evaluator_(detail::pick<detail::EvaluationKind, EvaluationOptions>(components...)) {
    expects(ahead_ == 0 || ahead_ == 1, "ahead", "0 or 1 epochs", ahead_);
    if constexpr (HasStepwiseOld<P>) {
      expects(ahead_ == 0 || !this->policy_.old_follows_steps(), "old_every_step",
              "false beside Ahead, with which an epoch is learnt against an old role that stays",
              "true");
    }
    this->learner_.set_online();
    auto forward = detail::pick<detail::ForwardKind, ForwardProcess>(components...);
    if (!forward.times) forward.times = GridTimes{};
    this->learner_.set(std::move(forward));
    this->learner_.set(detail::pick<detail::TransitionsKind, RecordedTransitions>(components...));
    if constexpr (Parts::corrects) {
      const auto correction =
          detail::pick<detail::CorrectionKind, RolloutCorrection>(components...);
      expects_valid(correction);
      this->settings_.emplace_back("correction", settings_text(correction));
      this->learner_.set(correction);
    }
    if constexpr (O::uses_paths) {
      this->learner_.set_reward([this](const Tensor& x0, const Tensor& prompt) {
        return scorer_.rewards().differentiable(x0, reference_of(this->source_, prompt));
      });
    }
    this->settings_.emplace_back(
        "failed", shown(int(detail::pick<detail::ScoringKind, Scoring>(components...).failed)));
    this->settings_.emplace_back("ahead", shown(ahead_));
    this->settings_.emplace_back("every", shown(evaluator_.options().every));
    this->settings_.emplace_back("samples", shown(evaluator_.options().samples));
    if (!Parts::collects) {
      this->settings_.emplace_back("prompts_per_epoch", shown(options_.prompts_per_epoch));
      this->settings_.emplace_back("group_size", shown(options_.group_size));
    }
  }

  using Base::run_epoch;
  /// One epoch: collect, score, learn, evaluate where it is due.
  /// @param warn told of what a person should know
  template <class Warn>
  EpochReport run_epoch(Warn&& warn) {
    return this->undone_if_given_up(this->learner_.steps(), [&] {
      const Stopwatch epoch;
      EpochReport report;
      if (ahead_ == 0) {
        Collected samples = collected(this->epoch_, collector_at(this->gradient_steps()));
        report.add("seconds/collect", epoch.seconds());
        learn(std::move(samples), report, warn);
      } else if constexpr (Parts::looks_ahead) {
        collect_ahead_and_learn(report, warn);
      }
      this->policy_.after_epoch(this->gradient_steps());
      this->seconds_ += epoch.seconds();
      report.add("seconds/epoch", epoch.seconds());
      this->finish(report);
      detail::evaluate_if_due(
          evaluator_, this->epoch_, [&] { return evaluate(); }, report, warn);
      return report;
    });
  }

  /// Why the run has no sense any more, see Learning::most_unscored_epochs; empty where it has.
  std::string reason_to_end() const {
    const std::int64_t unscored = scorer_.unscored_epochs();
    if (most_unscored_epochs_ == 0 || unscored < most_unscored_epochs_) return "";
    const std::string& failure = scorer_.last_failure();
    return "no sample has had a score in " + shown(unscored) + " epochs" +
           (failure.empty() ? "" : "; the last failure: " + failure);
  }

  /// Evaluates the averaged weights on the evaluator's prompts and noise.
  Evaluation evaluate() { return evaluate(evaluator_.prompts_or(this->source_)); }
  /// Evaluates on prompts of another source with the same kind of condition and reference.
  template <class OtherPrompts>
  Evaluation evaluate(const OtherPrompts& prompts) {
    if (scorer_.is_asynchronous()) {
      this->watch_.together(this->communicator_, [&] { scorer_.wait_for_thread(this->watch_); });
    }
    return evaluator_.evaluate(this->policy_, scorer_.rewards(), prompts, sample_shape(),
                               this->communicator_, this->watch_);
  }

  /// Clean samples of a role for the prompts @p ids, by the trainer's own solver and grid:
  /// collective, where the policy is divided between ranks.
  /// @param ids int64 [N]
  /// @param seed of the noise
  /// @param role whose velocity is followed, one that the policy keeps
  Tensor sample(const Tensor& ids, std::uint64_t seed, Role role = Role::average) {
    static_assert(!Parts::collects,
                  "contraflow: sample() follows the solver of a trainer, and this one has a "
                  "Collector: take the samples of evaluate(), which has a solver of its own");
    if constexpr (Parts::collects) {
      return {};
    } else {
      EvaluationCount uncounted;
      [[maybe_unused]] const auto whole = gathered(this->policy_, role);
      const Tensor rows = at::arange(ids.numel(), at::kLong);
      return generated(
          this->policy_, role, collector_.solver(), options_.grid, this->source_.condition(ids),
          {seeded(seed).stream(Purpose::sample), rows, sample_shape()}, uncounted, EpochWatch{});
    }
  }
  /// @p count samples, prompts in turn.
  Tensor sample(std::int64_t count, std::uint64_t seed = 0, Role role = Role::average) {
    return sample(at::arange(count, at::kLong).remainder(this->source_.size()), seed, role);
  }

  /// What a checkpoint needs, see Training; with Ahead the weights too that collect the epoch to
  /// come, whose samples are made again by whoever goes on from it. Who goes on without Ahead
  /// leaves them out and collects with the weights of then.
  TrainerState state() {
    TrainerState state = Base::state();
    if (next_) detail::add_next_epoch(state, *next_);
    return state;
  }
  /// Takes over what state() gave: all of it, or nothing where an error is thrown.
  /// @throws Error naming what is missing, or of another composition
  void load(const TrainerState& state) {
    std::optional<NextEpoch> next;
    if constexpr (Parts::looks_ahead) {
      if (ahead_ > 0 && detail::has_next_epoch(state)) {
        const Role role = this->objective().collector_at(state.counts.at(detail::ahead_count));
        next = detail::next_epoch_in<Record>(state, this->policy_.tensors_of(role));
      }
    }
    Base::load(state);
    next_ = std::move(next);
  }

  /// How samples are collected, with the shape of a sample filled in.
  const Collection& collection() const { return options_; }
  /// How evaluations are made.
  const EvaluationOptions& evaluation() const { return evaluator_.options(); }
  /// The rewards.
  const R& rewards() const { return scorer_.rewards(); }

 private:
  /// Whether the samples of an epoch come all at once.
  static constexpr bool collects_at_once =
      HasCollect<typename Parts::Collects, P, typename Parts::Prompts, Record>;

  /// The shape of a sample, from the settings or the policy; empty where neither knows it.
  Collection with_shape(Collection options) {
    if constexpr (requires { this->policy_.sample_shape(); }) {
      if (options.sample_shape.empty()) options.sample_shape = this->policy_.sample_shape();
    }
    if (!Parts::collects && options.sample_shape.empty()) throw_no_shape();
    return options;
  }
  [[noreturn]] static void throw_no_shape() {
    throw Error(
        "sample_shape",
        "the shape of a sample, from the Collection, or from a sample_shape() of the model; "
        "with a Collector of your own it is known behind the first epoch",
        "nothing");
  }
  const std::vector<std::int64_t>& sample_shape() const {
    if (options_.sample_shape.empty()) throw_no_shape();
    return options_.sample_shape;
  }

  using Collected = detail::Collected<Record>;
  using NextEpoch = detail::NextEpoch<Record>;

  /// The samples of an epoch; scored, or with Ahead still to be scored.
  Collected collected(std::int64_t epoch, Role role) {
    Collected made;
    const CollectorContext<P, typename Parts::Prompts> context{this->policy_,
                                                               this->source_,
                                                               role,
                                                               epoch,
                                                               this->seed_,
                                                               made.evaluations,
                                                               this->communicator_.rank(),
                                                               this->communicator_.size(),
                                                               this->watch_,
                                                               path_steps(epoch)};
    if (ahead_ == 0) scorer_.reset();
    [[maybe_unused]] const auto whole = gathered(this->policy_, role);
    this->watch_.together(this->communicator_, [&] {
      made.rollout = rollout_of(context);
      if (ahead_ == 0) scorer_.wait(this->watch_);
    });
    made.scores = scorer_.taken();
    if (options_.sample_shape.empty()) {
      options_.sample_shape = made.rollout.x0.sizes().slice(1).vec();
    }
    return made;
  }
  /// See CollectorContext::path_steps.
  auto path_steps(std::int64_t epoch) const {
    std::function<std::vector<std::vector<std::size_t>>(const TimeGrid&)> steps;
    if constexpr (O::uses_paths) {
      steps = [this, stream = seeded(this->seed_).stream(static_cast<std::uint64_t>(epoch))](
                  const TimeGrid& grid) { return this->objective().path_steps(grid, stream); };
    }
    return steps;
  }
  /// The samples that the collector makes, while those that are there begin to be scored.
  template <class Context>
  Rollout<Record> rollout_of(const Context& context) {
    auto begin = [this](const Tensor& x0, const Tensor& prompt) { scorer_.begin(x0, prompt); };
    if constexpr (collects_at_once) {
      Rollout<Record> rollout = collector_.collect(context);
      expects_whole(rollout);
      begin(rollout.x0, rollout.prompt);
      return rollout;
    } else {
      Rollout<Record> rollout = collector_.collect(context, begin);
      expects_whole(rollout);
      return rollout;
    }
  }

  /// An epoch whose samples are there, or are made by who was to make them, while those of the next
  /// one begin to be scored.
  template <class Warn>
  void collect_ahead_and_learn(EpochReport& report, Warn& warn) {
    const Stopwatch collecting;
    NextEpoch now = next_ ? *std::exchange(next_, std::nullopt) : next_epoch();
    try {
      Collected samples = samples_of(now);
      next_ = next_epoch();
      if (this->epoch_ + 1 < this->until_) {
        next_->samples = collected(this->epoch_ + 1, collector_at(next_->gradient_steps));
      }
      report.add("seconds/collect", collecting.seconds());
      const Stopwatch waiting;
      this->watch_.together(this->communicator_,
                            [&] { scorer_.wait(samples.scores, this->watch_); });
      report.add("seconds/wait", waiting.seconds());
      report.add("staleness", double(this->gradient_steps() - now.gradient_steps));
      const auto collector = as_known_collector(now);
      if constexpr (O::uses_paths) {  // which ask the reward, as the thread does
        this->watch_.together(this->communicator_, [&] { scorer_.wait_for_thread(this->watch_); });
      }
      learn(std::move(samples), report, warn);
    } catch (...) {
      scorer_.reset();
      now.samples.reset();
      next_ = std::move(now);
      throw;
    }
  }
  /// The epoch to come, whose samples are made with the weights of today.
  NextEpoch next_epoch() {
    const Role role = collector_at(this->gradient_steps());
    return {detail::copies_of(this->policy_.tensors_of(role)), this->gradient_steps(), {}};
  }
  Role collector_at(std::int64_t gradient_steps) {
    return this->objective().collector_at(gradient_steps);
  }
  /// Gives the collecting role the weights that make the samples of an epoch, for a time.
  detail::WithValues as_collector(const NextEpoch& epoch) {
    return {this->policy_.tensors_of(collector_at(epoch.gradient_steps)), epoch.collector};
  }
  /// The same where the objective looks at that role beside the one that is learnt.
  detail::WithValues as_known_collector(const NextEpoch& epoch) {
    if (collector_at(epoch.gradient_steps) == Role::current) return {{}, {}};
    return as_collector(epoch);
  }
  Collected samples_of(NextEpoch& epoch) {
    if (epoch.samples) return *std::exchange(epoch.samples, std::nullopt);
    const auto collector = as_collector(epoch);
    return collected(this->epoch_, collector_at(epoch.gradient_steps));
  }
  template <class Warn>
  void learn(Collected samples, EpochReport& report, Warn& warn) {
    this->learner_.evaluations() += samples.evaluations;
    const auto scored =
        scorer_.finish(std::move(samples.rollout), std::move(samples.scores), report, warn);
    LearnReport learnt;
    if (scored.size() > 0) {
      const Generator stream =
          seeded(this->seed_).stream(Purpose::order, static_cast<std::uint64_t>(this->epoch_));
      this->learner_.learn(scored, options_.grid, stream, learnt);
      scorer_.learnt();
    }
    this->add_learnt(report, std::move(learnt));
  }

  Collection options_;
  std::int64_t most_unscored_epochs_;
  std::int64_t ahead_;
  typename Parts::Collects collector_;
  Scorer<R, typename Parts::A, typename Parts::Prompts, Comm> scorer_;
  typename Parts::Evaluates evaluator_;
  std::optional<NextEpoch> next_;
};

/// Online reinforcement learning of a flow: collect, score, learn, evaluate.
///
/// An epoch draws `prompts_per_epoch` prompts, `group_size` samples each with the collecting role,
/// scores them, turns scores into advantages, and makes gradient steps on the objective. What the
/// objective does not need is neither computed nor stored.
///
/// `Trainer(policy, solver, rewards, objective, components...)`: the solver may be a Collector of
/// your own; rewards may be a bag made by rewards(...) or a single Reward; components are in any
/// order: settings (Collection, Scoring, Learning, Optimization, ForwardProcess,
/// RecordedTransitions, RolloutCorrection, EvaluationOptions or an Evaluator, Seed, Ahead), a
/// PromptSource (default NoPrompts), an Advantage (default GroupAdvantage) and a Communicator
/// (default Alone). The same seed and number of threads give the same bits; the same seed makes the
/// same draws for any number of ranks.
template <class P, class S, class R, class O, class... Components>
class Trainer
    : public std::conditional_t<detail::Composition<P, S, R, O, Components...>::fits(),
                                OnlineTrainer<P, S, R, O, Components...>, detail::RefusedTrainer> {
  static_assert(detail::Composition<P, S, R, O, Components...>::explain());
  using Base = std::conditional_t<detail::Composition<P, S, R, O, Components...>::fits(),
                                  OnlineTrainer<P, S, R, O, Components...>, detail::RefusedTrainer>;

 public:
  /// @param policy answers for the roles; is trained
  /// @param solver a Solver, a StochasticSolver where the objective needs one, a Sampler, or a
  /// Collector
  /// @param scored_by the rewards: a bag made by rewards(), or a Reward
  /// @param objective a Term, or a sum of them
  /// @param components settings, prompts, an advantage: any of them, in any order
  /// @throws Error if an option is out of range, or nobody knows the shape of a sample
  template <class RawRewards, class RawObjective>
  Trainer(P policy, S solver, RawRewards scored_by, RawObjective objective,
          const Components&... components)
      : Base(std::move(policy), std::move(solver), as_rewards(std::move(scored_by)),
             as_sum(std::move(objective)), components...) {}
};

/// Deduces the types of all parts.
template <class P, class S, class R, class O, class... Components>
Trainer(P, S, R, O, Components...) -> Trainer<P, S, decltype(as_rewards(std::declval<R>())),
                                              decltype(as_sum(std::declval<O>())), Components...>;

}  // namespace contraflow
