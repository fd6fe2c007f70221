#pragma once

/// @file
/// The samples of an epoch, from who collects them to their scores.

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include <contraflow/core/stopwatch.hpp>
#include <contraflow/train/composition.hpp>
#include <contraflow/train/next_epoch.hpp>

namespace contraflow::detail {

/// Where a run stands, and what the samples of its epochs are made with.
template <class P, class Prompts, class O, class Comm>
struct Standing {
  P& policy;
  const Prompts& prompts;
  const O& objective;
  const Comm& communicator;
  const EpochWatch& watch;
  std::uint64_t seed;
  std::int64_t epoch;           ///< to be learnt, counted from 0
  std::int64_t until;           ///< epochs of the run, in total
  std::int64_t gradient_steps;  ///< made so far

  /// Who collects behind so many gradient steps.
  Role collector_at(std::int64_t steps) const { return objective.collector_at(steps); }
};

/// Has the samples of a trainer's epochs collected and scored: when they are to be learnt or, with
/// Ahead, an epoch before.
/// @tparam Parts the Composition of the trainer
template <class Parts, class P, class R, class O, class Comm>
class EpochSamples {
  using Prompts = typename Parts::Prompts;
  using Record = RecordOf<O>;
  using Samples = Collected<Record>;
  using Next = NextEpoch<Record>;
  using Place = Standing<P, Prompts, O, Comm>;

 public:
  /// @param solver or a Collector
  /// @param rewards a bag
  /// @param prompts which must outlive this
  /// @param communicator of the ranks
  /// @param sample_shape that the policy knows, or empty
  /// @param components of the trainer
  /// @throws Error if an option is out of range
  template <class S, class... Components>
  EpochSamples(S solver, R rewards, const Prompts& prompts, const Comm& communicator,
               std::vector<std::int64_t> sample_shape, const Components&... components)
      : options_(
            with_shape(pick<CollectionKind, Collection>(components...), std::move(sample_shape))),
        ahead_(Parts::looks_ahead ? pick<AheadKind, Ahead>(components...).epochs : 0),
        collector_(CollectorMaker<Parts::collects>::template of<typename Parts::Collects>(
            std::move(solver), options_, pick<TransitionsKind, RecordedTransitions>(components...),
            O::compares_samples ? 2 : 1)),
        scorer_(std::move(rewards), pick<AdvantageKind, GroupAdvantage>(components...), prompts,
                ahead_ > 0 || (Parts::collects ? !collects_at_once : options_.asynchronous_scoring),
                communicator, pick<ScoringKind, Scoring>(components...)) {
    expects(ahead_ == 0 || ahead_ == 1, "ahead", "0 or 1 epochs", ahead_);
  }

  /// Hands the samples of an epoch to `learn(samples)`, and adds to the report what they took:
  /// collective.
  /// @throws EpochGivenUp where the epoch is given up; samples made ahead are then made again
  template <class Learn>
  void learn_from(const Place& at, EpochReport& report, Learn&& learn) {
    if (ahead_ == 0) {
      const Stopwatch collecting;
      Samples samples = collected(at, at.epoch, at.collector_at(at.gradient_steps));
      report.add("seconds/collect", collecting.seconds());
      learn(std::move(samples));
    } else if constexpr (Parts::looks_ahead) {
      learn_ahead(at, report, learn);
    }
  }

  /// Adds the weights that collect the epoch to come, where that is not who collects by then.
  void add_to(TrainerState& state) const {
    if (next_) add_next_epoch(state, *next_);
  }
  /// What add_to() gave, where it is wanted.
  /// @throws Error if a weight is missing or has another shape
  std::optional<Next> next_in(const TrainerState& state, P& policy, const O& objective) const {
    if constexpr (Parts::looks_ahead) {
      if (ahead_ > 0 && has_next_epoch(state)) {
        const Role role = objective.collector_at(state.counts.at(ahead_count));
        return next_epoch_in<Record>(state, policy.tensors_of(role));
      }
    }
    return std::nullopt;
  }
  /// Goes on with an epoch to come, or without one.
  void go_on_with(std::optional<Next> next) { next_ = std::move(next); }

  /// How samples are collected, with the shape of a sample where it is known.
  const Collection& options() const { return options_; }
  /// Epochs between collecting and learning.
  std::int64_t ahead() const { return ahead_; }
  /// What collects.
  const typename Parts::Collects& collector() const { return collector_; }
  /// What scores.
  Scorer<R, typename Parts::A, Prompts, Comm>& scorer() { return scorer_; }
  const Scorer<R, typename Parts::A, Prompts, Comm>& scorer() const { return scorer_; }
  /// The shape of one sample.
  /// @throws Error if nobody knows it yet
  const std::vector<std::int64_t>& sample_shape() const {
    if (options_.sample_shape.empty()) throw_no_shape();
    return options_.sample_shape;
  }

 private:
  /// Whether the samples of an epoch come all at once.
  static constexpr bool collects_at_once = HasCollect<typename Parts::Collects, P, Prompts, Record>;

  static Collection with_shape(Collection options, std::vector<std::int64_t> known) {
    if (options.sample_shape.empty()) options.sample_shape = std::move(known);
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

  /// The samples of an epoch; scored, or with Ahead still to be scored.
  Samples collected(const Place& at, std::int64_t epoch, Role role) {
    Samples made;
    const CollectorContext<P, Prompts> context{at.policy,
                                               at.prompts,
                                               role,
                                               epoch,
                                               at.seed,
                                               made.evaluations,
                                               at.communicator.rank(),
                                               at.communicator.size(),
                                               at.watch,
                                               path_steps(at, epoch)};
    if (ahead_ == 0) scorer_.reset();
    [[maybe_unused]] const auto whole = gathered(at.policy, role);
    at.watch.together(at.communicator, [&] {
      made.rollout = rollout_of(context);
      if (ahead_ == 0) scorer_.wait(at.watch);
    });
    made.scores = scorer_.taken();
    if (options_.sample_shape.empty()) {
      options_.sample_shape = made.rollout.x0.sizes().slice(1).vec();
    }
    return made;
  }
  /// See CollectorContext::path_steps.
  static auto path_steps(const Place& at, std::int64_t epoch) {
    std::function<std::vector<std::vector<std::size_t>>(const TimeGrid&)> steps;
    if constexpr (O::uses_paths) {
      steps = [&objective = at.objective,
               stream = seeded(at.seed).stream(static_cast<std::uint64_t>(epoch))](
                  const TimeGrid& grid) { return objective.path_steps(grid, stream); };
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
  template <class Learn>
  void learn_ahead(const Place& at, EpochReport& report, Learn& learn) {
    const Stopwatch collecting;
    Next now = next_ ? *std::exchange(next_, std::nullopt) : next_epoch(at);
    try {
      Samples samples = samples_of(at, now);
      next_ = next_epoch(at);
      if (at.epoch + 1 < at.until) {
        next_->samples = collected(at, at.epoch + 1, at.collector_at(next_->gradient_steps));
      }
      report.add("seconds/collect", collecting.seconds());
      const Stopwatch waiting;
      at.watch.together(at.communicator, [&] { scorer_.wait(samples.scores, at.watch); });
      report.add("seconds/wait", waiting.seconds());
      report.add("staleness", double(at.gradient_steps - now.gradient_steps));
      const auto collector = as_known_collector(at, now);
      if constexpr (O::uses_paths) {  // which ask the reward, as the thread does
        at.watch.together(at.communicator, [&] { scorer_.wait_for_thread(at.watch); });
      }
      learn(std::move(samples));
    } catch (...) {
      scorer_.reset();
      now.samples.reset();
      next_ = std::move(now);
      throw;
    }
  }
  /// The epoch to come, whose samples are made with the weights of today.
  static Next next_epoch(const Place& at) {
    const Role role = at.collector_at(at.gradient_steps);
    return {copies_of(at.policy.tensors_of(role)), at.gradient_steps, {}};
  }
  /// Gives the collecting role the weights that make the samples of an epoch, for a time.
  static WithValues as_collector(const Place& at, const Next& epoch) {
    return {at.policy.tensors_of(at.collector_at(epoch.gradient_steps)), epoch.collector};
  }
  /// The same where the objective looks at that role beside the one that is learnt.
  static WithValues as_known_collector(const Place& at, const Next& epoch) {
    if (at.collector_at(epoch.gradient_steps) == Role::current) return {{}, {}};
    return as_collector(at, epoch);
  }
  Samples samples_of(const Place& at, Next& epoch) {
    if (epoch.samples) return *std::exchange(epoch.samples, std::nullopt);
    const auto collector = as_collector(at, epoch);
    return collected(at, at.epoch, at.collector_at(epoch.gradient_steps));
  }

  Collection options_;
  std::int64_t ahead_;
  typename Parts::Collects collector_;
  Scorer<R, typename Parts::A, Prompts, Comm> scorer_;
  std::optional<Next> next_;
};

}  // namespace contraflow::detail
