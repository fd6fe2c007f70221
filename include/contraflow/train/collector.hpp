#pragma once

/// @file
/// The concept Collector, and the collector that follows a solver.

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include <contraflow/distributed/communicator.hpp>
#include <contraflow/policy/concept.hpp>
#include <contraflow/train/evaluation_count.hpp>
#include <contraflow/train/generate.hpp>
#include <contraflow/train/prompts.hpp>
#include <contraflow/train/rollout.hpp>

namespace contraflow {

/// How an epoch's samples are collected: a component of a Trainer. Defaults are those published for
/// Stable Diffusion 3.5 Medium.
struct Collection {
  std::int64_t prompts_per_epoch = 48;  ///< at least 1
  /// Samples a prompt, at least 2; 1 will do where no term compares samples or takes their scores.
  std::int64_t group_size = 24;
  TimeGrid grid = sd3_grid(10);                 ///< on which samples are collected
  std::int64_t rollout_batch = 0;               ///< most samples generated at a time; 0: no limit
  bool asynchronous_scoring = false;            ///< score a batch while the next one is generated
  std::vector<std::int64_t> sample_shape = {};  ///< only needed if the model does not know it
};

/// What a Collector works with in an epoch.
template <class P, class Prompts>
struct CollectorContext {
  P& policy;                     ///< whose velocity is followed
  const Prompts& prompts;        ///< to choose from
  Role role;                     ///< who collects
  std::int64_t epoch;            ///< counted from 0
  std::uint64_t seed;            ///< of the run
  EvaluationCount& evaluations;  ///< to be told of every velocity that is computed
  int rank = 0;                  ///< who collects a part of the samples
  int ranks = 1;                 ///< how many do
  EpochWatch watch = {};         ///< asked, in long work, whether the epoch is to be given up
  /// `path_steps(grid)`: where states are to be recorded, for an objective on the gradient of the
  /// reward, see RecordedPaths; empty for others.
  std::function<std::vector<std::vector<std::size_t>>(const TimeGrid&)> path_steps = {};

  /// What of @p count groups this rank collects, whole; groups are numbered over all ranks.
  Share share(std::int64_t count) const { return share_of(count, rank, ranks); }
};

/// What is done with samples as they come, for concepts to be tested with.
struct ProbeMade {
  /// Nothing.
  void operator()(const Tensor& /*x0*/, const Tensor& /*prompt*/) const {}
};

/// `c.collect(context)`: the samples of an epoch as a Rollout.
template <class T, class P, class Prompts, class Record>
concept HasCollect = requires(const T& collector, const CollectorContext<P, Prompts>& context) {
  { collector.collect(context) } -> std::same_as<Rollout<Record>>;
};
/// `c.collect(context, made)`: the same, calling `made(x0, prompt)` with each batch as soon as it
/// is there, so that it is scored, by another thread, while the next one is made.
template <class T, class P, class Prompts, class Record>
concept HasCollectInBatches = requires(const T& collector,
                                       const CollectorContext<P, Prompts>& context,
                                       ProbeMade& made) {
  { collector.collect(context, made) } -> std::same_as<Rollout<Record>>;
};

/// `c.collect(context)` or `c.collect(context, made)`, const or not, whatever it gives.
template <class T, class Context>
concept HasAnyCollect = requires(T& collector, const Context& context) {
  collector.collect(context);
}
|| requires(T& collector, const Context& context, ProbeMade& made) {
  collector.collect(context, made);
};

/// Where the samples of an epoch come from: a solver that follows the policy, a store, a simulator.
///
/// Valid expression: that of HasCollect or of HasCollectInBatches. Laws: what is drawn depends on
/// `context.seed`, the epoch and the sample's id alone; one that calls `made` calls it for all
/// samples in order; one that does not has them scored at the end. It has no grid that GridTimes
/// could follow: without one of their own they take sd3_grid(10).
template <class T, class P, class Prompts, class Record = NothingRecorded>
concept Collector = HasCollect<T, P, Prompts, Record> || HasCollectInBatches<T, P, Prompts, Record>;

/// Follows the velocity of a role from noise to clean samples, on a grid, by a solver.
/// @tparam Record what is recorded of their making
template <class S, class Record = NothingRecorded>
class SolverCollector {
 public:
  /// @param solver a Solver, a StochasticSolver or a Sampler
  /// @param options settings, with the shape of a sample
  /// @param transitions which steps are recorded, where an objective needs them
  /// @param least_group least size of a group
  /// @throws Error if an option is out of range
  SolverCollector(S solver, Collection options, RecordedTransitions transitions = {},
                  std::int64_t least_group = 2)
      : solver_(std::move(solver)), options_(std::move(options)), transitions_(transitions) {
    static_assert(explain_solver<S>());
    expects(options_.prompts_per_epoch >= 1, "prompts_per_epoch", "at least 1",
            options_.prompts_per_epoch);
    expects_at_least_one(options_.group_size, "group_size");
    expects(options_.group_size >= least_group, "group_size",
            "at least 2 (advantages compare the samples of a prompt)", options_.group_size);
    expects(options_.rollout_batch >= 0, "rollout_batch", "at least 0", options_.rollout_batch);
    expects(transitions_.fraction > 0 && transitions_.fraction <= 1, "fraction",
            "a value in (0, 1]", transitions_.fraction);
  }

  /// The settings.
  const Collection& options() const { return options_; }
  /// The solver.
  const S& solver() const { return solver_; }

  /// The samples of an epoch: `prompts_per_epoch` groups of `group_size`, of which each rank has
  /// its share.
  template <class P, class Prompts, class Made>
  Rollout<Record> collect(const CollectorContext<P, Prompts>& context, Made&& made) const {
    const S solver = solver_of(context.epoch);
    Rollout<Record> rollout = planned(context);
    RecordPlan plan{transitions_.fraction};
    if (context.path_steps) plan.path_steps = context.path_steps(options_.grid);
    Recorder<Record> recorder(rollout.record, solver, options_.grid, plan, rollout.x0);
    const std::int64_t count = rollout.size();
    const std::int64_t most = options_.rollout_batch > 0 ? options_.rollout_batch : count;
    for (std::int64_t first = 0; first < count; first += most) {
      const std::int64_t size = std::min(most, count - first);
      const Tensor prompt = rollout.prompt.narrow(0, first, size);
      const Tensor x0 = generated(
          context.policy, context.role, solver, options_.grid, context.prompts.condition(prompt),
          {stream_of(context), rollout.id.narrow(0, first, size), options_.sample_shape},
          context.evaluations, context.watch, recorder.hook(first));
      rollout.x0.narrow(0, first, size).copy_(x0);
      made(x0, prompt);
    }
    return rollout;
  }

 private:
  /// The names of the samples; the samples themselves are still to be made.
  template <class P, class Prompts>
  Rollout<Record> planned(const CollectorContext<P, Prompts>& context) const {
    const std::int64_t groups = options_.prompts_per_epoch, members = options_.group_size;
    const Share own = context.share(groups);
    Generator generator = stream_of(context).stream(Purpose::prompts);
    Rollout<Record> rollout;
    rollout.prompt = draw_prompts(context.prompts.size(), groups, generator)
                         .slice(0, own.first, own.last)
                         .repeat_interleave(members);
    prepare_prompts(context.prompts, rollout.prompt);
    rollout.group = at::arange(own.first, own.last, at::kLong).repeat_interleave(members);
    rollout.id = at::arange(own.first * members, own.last * members, at::kLong);
    rollout.x0 = at::empty(batch_shape(own.size() * members, options_.sample_shape),
                           sample_options(context.policy));
    return rollout;
  }

  /// The stream of an epoch's samples.
  template <class P, class Prompts>
  static Generator stream_of(const CollectorContext<P, Prompts>& context) {
    return seeded(context.seed).stream(static_cast<std::uint64_t>(context.epoch));
  }

  S solver_of(std::int64_t epoch) const {
    if constexpr (HasEpochs<S>) {
      return solver_.at_epoch(epoch);
    } else {
      return solver_;
    }
  }

  S solver_;
  Collection options_;
  RecordedTransitions transitions_;
};

}  // namespace contraflow
