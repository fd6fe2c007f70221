#pragma once

/// @file
/// Reinforcement learning from stored samples.

#include <algorithm>
#include <utility>

#include <contraflow/advantage/advantages.hpp>
#include <contraflow/observe/concept.hpp>
#include <contraflow/train/updater.hpp>

namespace contraflow {

/// Stored samples with scores.
struct StoredSamples {
  Tensor x0;      ///< clean samples [N, ...]
  Tensor reward;  ///< float64 [N], not finite where a score is missing
  Tensor prompt;  ///< int64 [N], each sample's prompt: those of one prompt are compared
};

/// A set of good and a set of bad examples as stored samples of one prompt: rewards 1 and 0.
/// @par Shape
/// @p good [G, ...] and @p bad [B, ...] of one sample shape
/// @throws Error if one of them is empty or not floating-point
inline StoredSamples good_and_bad(const Tensor& good, const Tensor& bad) {
  expects_samples(good, "good");
  expects_samples(bad, "bad");
  if (good.sizes().slice(1) != bad.sizes().slice(1)) {
    throw Error("bad", "samples like the good ones, " + shape_text(good), shape_text(bad));
  }
  const Tensor x0 = at::cat({good, bad});
  Tensor reward = at::zeros({x0.size(0)}, at::kDouble);
  reward.narrow(0, 0, good.size(0)).fill_(1);
  return {x0, reward, at::zeros({x0.size(0)}, at::kLong)};
}

/// Settings of training on stored samples.
struct OfflineOptions {
  UpdateOptions update = {};     ///< how samples become gradient steps
  TimeGrid grid = sd3_grid(10);  ///< which GridTimes follow
  std::uint64_t seed = 0;        ///< of everything that is drawn
};

/// Reinforcement learning from stored samples: no policy is asked to generate.
///
/// Works with every objective on the forward process. The old policy stands for whoever made the
/// samples; since nothing new is collected it should stay where it is: `SnapshotPolicy(model,
/// {.old_decay = Constant{1}})`.
template <class P, class O, class Prompts = NoPrompts, class A = GroupAdvantage,
          class Times = UniformTimes>
class OfflineTrainer {
 public:
  /// @param policy is trained
  /// @param samples stored samples; those without a finite reward are left out and counted
  /// @param objective terms on the forward process
  /// @param options settings
  /// @param prompts where the numbers of prompts lead
  /// @param advantage of the stored rewards
  /// @param times at which samples are noised
  /// @throws Error if shapes do not fit or no sample has a reward
  template <class RawObjective>
  OfflineTrainer(P policy, StoredSamples samples, RawObjective objective,
                 const OfflineOptions& options = {}, Prompts prompts = {}, A advantage = {},
                 Times times = {})
      : policy_(std::move(policy)),
        prompts_(std::move(prompts)),
        grid_(options.grid),
        generator_(seeded(options.seed)),
        updater_(policy_, as_sum(std::move(objective)), prompts_, std::move(times),
                 options.update) {
    static_assert(!O::uses_transitions,
                  "contraflow: stored samples have no transitions: use an objective on the forward "
                  "process such as Nft, Awm, Dpo or BestOfGroup");
    static_assert(explain_prompt_source<Prompts>());
    static_assert(explain_advantage<A>());
    store(samples, advantage);
  }

  OfflineTrainer(const OfflineTrainer&) = delete;
  OfflineTrainer& operator=(const OfflineTrainer&) = delete;

  /// Passes over the samples until @p epochs are finished in total, or an observer stops.
  /// @param epochs in total
  /// @param observers told in this order
  /// @return how it ended
  template <class... Os>
  RunReport run(std::int64_t epochs, Os&&... observers) {
    Observers<std::remove_reference_t<Os>...> all(observers...);
    all.start({epoch_ + 1, epochs});
    RunReport report{epoch_, false, {}, {}};
    while (epoch_ < epochs && !report.stopped) {
      report.last = run_epoch();
      const Verdict verdict = all(report.last);
      report.epochs = epoch_;
      report.stopped = verdict.stop;
      report.reason = verdict.reason;
    }
    all.finish(report);
    return report;
  }

  /// The policy that is trained.
  P& policy() { return policy_; }
  /// Samples that were left out for want of a finite reward.
  std::int64_t masked() const { return masked_; }

 private:
  void store(const StoredSamples& samples, const A& advantage) {
    expects_samples(samples.x0, "x0");
    expects_per_sample(samples.reward, samples.x0, "reward");
    expects_per_sample(samples.prompt, samples.x0, "prompt");
    const Tensor reward = samples.reward.to(at::kDouble);
    rows_ = reward.isfinite().nonzero().flatten();
    masked_ = reward.numel() - rows_.numel();
    expects(rows_.numel() > 0, "reward", "at least one finite value", "none");
    rollout_.x0 = wide(samples.x0);
    rollout_.prompt = rollout_.group = samples.prompt.to(at::kLong);
    scores_.reward = reward.index_select(0, rows_);
    scores_.group = rollout_.group.index_select(0, rows_);
    scores_.advantage = advantage(scores_.reward, scores_.group);
  }

  EpochReport run_epoch() {
    const UpdateReport update = updater_.update(rollout_, rows_, scores_, grid_, generator_);
    policy_.after_epoch(updater_.gradient_steps());
    EpochReport report;
    report.epoch = ++epoch_;
    report.gradient_steps = updater_.gradient_steps();
    report.forward_evaluations = updater_.evaluations().forward;
    report.backward_evaluations = updater_.evaluations().backward;
    report.metrics.push_back({"reward/masked", double(masked_)});
    add_metrics(report, update);
    return report;
  }

  P policy_;
  Prompts prompts_;
  TimeGrid grid_;
  Generator generator_;
  Updater<P, O, Prompts, Times> updater_;
  Rollout<RecordOf<O>> rollout_;
  Tensor rows_;
  Scores scores_;
  std::int64_t masked_ = 0;
  std::int64_t epoch_ = 0;
};

/// Deduces the types of policy and objective.
template <class P, class O>
OfflineTrainer(P, StoredSamples, O) -> OfflineTrainer<P, decltype(as_sum(std::declval<O>()))>;

/// Deduces the types of policy, objective and components.
template <class P, class O, class... Rest>
OfflineTrainer(P, StoredSamples, O, OfflineOptions, Rest...)
    -> OfflineTrainer<P, decltype(as_sum(std::declval<O>())), Rest...>;

}  // namespace contraflow
