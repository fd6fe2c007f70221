#pragma once

/// @file
/// Online reinforcement learning: collect, score, learn, evaluate.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/stopwatch.hpp>
#include <contraflow/train/composition.hpp>
#include <contraflow/train/epoch_samples.hpp>
#include <contraflow/train/training.hpp>

namespace contraflow {

/// A Trainer whose composition makes sense, see there.
template <class P, class S, class R, class O, class... Components>
class OnlineTrainer
    : public Training<OnlineTrainer<P, S, R, O, Components...>, P, O,
                      typename detail::Composition<P, S, R, O, Components...>::Prompts,
                      detail::Pick<detail::CommunicatorKind, Alone, Components...>> {
  using Parts = detail::Composition<P, S, R, O, Components...>;
  using Comm = typename Parts::Comm;
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
        most_unscored_epochs_(
            detail::pick<detail::LearningKind, Learning>(components...).most_unscored_epochs),
        samples_(std::move(solver), std::move(rewards), this->source_, this->communicator_,
                 shape_of_policy(), components...),
        evaluator_(detail::pick<detail::EvaluationKind, EvaluationOptions>(components...)) {
    if constexpr (HasStepwiseOld<P>) {
      expects(samples_.ahead() == 0 || !this->policy_.old_follows_steps(), "old_every_step",
              "false beside Ahead, with which an epoch is learnt against an old role that stays",
              "true");
    }
    set_learner(components...);
    add_settings(components...);
  }

  using Base::run_epoch;
  /// One epoch: collect, score, learn, evaluate where it is due.
  /// @param warn told of what a person should know
  template <class Warn>
  EpochReport run_epoch(Warn&& warn) {
    return this->undone_if_given_up(this->learner_.steps(), [&] {
      const Stopwatch epoch;
      EpochReport report;
      samples_.learn_from(standing(), report,
                          [&](auto samples) { learn(std::move(samples), report, warn); });
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
    const std::int64_t unscored = samples_.scorer().unscored_epochs();
    if (most_unscored_epochs_ == 0 || unscored < most_unscored_epochs_) return "";
    const std::string& failure = samples_.scorer().last_failure();
    return "no sample has had a score in " + shown(unscored) + " epochs" +
           (failure.empty() ? "" : "; the last failure: " + failure);
  }

  /// Evaluates the averaged weights on the evaluator's prompts and noise.
  Evaluation evaluate() { return evaluate(evaluator_.prompts_or(this->source_)); }
  /// Evaluates on prompts of another source with the same kind of condition and reference.
  template <class OtherPrompts>
  Evaluation evaluate(const OtherPrompts& prompts) {
    auto& scorer = samples_.scorer();
    if (scorer.is_asynchronous()) {
      this->watch_.together(this->communicator_, [&] { scorer.wait_for_thread(this->watch_); });
    }
    return evaluator_.evaluate(this->policy_, scorer.rewards(), prompts, samples_.sample_shape(),
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
      return generated(this->policy_, role, samples_.collector().solver(), collection().grid,
                       this->source_.condition(ids),
                       {seeded(seed).stream(Purpose::sample), rows, samples_.sample_shape()},
                       uncounted, EpochWatch{});
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
    samples_.add_to(state);
    return state;
  }
  /// Takes over what state() gave: all of it, or nothing where an error is thrown.
  /// @throws Error naming what is missing, or of another composition
  void load(const TrainerState& state) {
    auto next = samples_.next_in(state, this->policy_, this->objective());
    Base::load(state);
    samples_.go_on_with(std::move(next));
  }

  /// How samples are collected, with the shape of a sample filled in.
  const Collection& collection() const { return samples_.options(); }
  /// How evaluations are made.
  const EvaluationOptions& evaluation() const { return evaluator_.options(); }
  /// The rewards.
  const R& rewards() const { return samples_.scorer().rewards(); }

 private:
  std::vector<std::int64_t> shape_of_policy() {
    if constexpr (requires { this->policy_.sample_shape(); }) return this->policy_.sample_shape();
    return {};
  }

  /// Gives the learner what an online run knows.
  void set_learner(const Components&... components) {
    this->learner_.set_online();
    auto forward = detail::pick<detail::ForwardKind, ForwardProcess>(components...);
    if (!forward.times) forward.times = GridTimes{};
    this->learner_.set(std::move(forward));
    this->learner_.set(detail::pick<detail::TransitionsKind, RecordedTransitions>(components...));
    if constexpr (Parts::corrects) {
      const auto correction =
          detail::pick<detail::CorrectionKind, RolloutCorrection>(components...);
      expects_valid(correction);
      this->learner_.set(correction);
    }
    if constexpr (O::uses_paths) {
      this->learner_.set_reward([this](const Tensor& x0, const Tensor& prompt) {
        return rewards().differentiable(x0, reference_of(this->source_, prompt));
      });
    }
  }

  /// Adds what must be the same on all ranks.
  void add_settings(const Components&... components) {
    const auto add = [&](const char* name, std::int64_t value) {
      this->settings_.emplace_back(name, shown(value));
    };
    add("failed", int(detail::pick<detail::ScoringKind, Scoring>(components...).failed));
    add("ahead", samples_.ahead());
    add("every", evaluation().every);
    add("samples", evaluation().samples);
    if (!Parts::collects) {
      add("prompts_per_epoch", collection().prompts_per_epoch);
      add("group_size", collection().group_size);
    }
    if constexpr (Parts::corrects) {
      this->settings_.emplace_back(
          "correction",
          settings_text(detail::pick<detail::CorrectionKind, RolloutCorrection>(components...)));
    }
  }

  detail::Standing<P, typename Parts::Prompts, O, Comm> standing() {
    return {this->policy_, this->source_, this->objective(), this->communicator_,   this->watch_,
            this->seed_,   this->epoch_,  this->until_,      this->gradient_steps()};
  }

  template <class Samples, class Warn>
  void learn(Samples samples, EpochReport& report, Warn& warn) {
    this->learner_.evaluations() += samples.evaluations;
    auto& scorer = samples_.scorer();
    const auto scored =
        scorer.finish(std::move(samples.rollout), std::move(samples.scores), report, warn);
    LearnReport learnt;
    if (scored.size() > 0) {
      const Generator stream =
          seeded(this->seed_).stream(Purpose::order, static_cast<std::uint64_t>(this->epoch_));
      this->learner_.learn(scored, collection().grid, stream, learnt);
      scorer.learnt();
    }
    this->add_learnt(report, std::move(learnt));
  }

  std::int64_t most_unscored_epochs_;
  detail::EpochSamples<Parts, P, R, O, Comm> samples_;
  typename Parts::Evaluates evaluator_;
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
