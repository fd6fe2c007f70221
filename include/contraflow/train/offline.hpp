#pragma once

/// @file
/// Reinforcement learning from stored samples.

#include <algorithm>
#include <utility>

#include <contraflow/core/stopwatch.hpp>
#include <contraflow/train/components.hpp>
#include <contraflow/train/training.hpp>

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

/// Samples of a store, with their scores: they are collected once.
/// @param samples of the prompts 0 ... @p prompts - 1
/// @param prompts number of prompts there are; 0: their numbers only say which are compared
/// @param advantage of the stored rewards
/// @return those that have a score
/// @throws Error if shapes do not fit or no sample has a score
template <class Record, class A>
ScoredRollout<Record> stored(const StoredSamples& samples, std::int64_t prompts,
                             const A& advantage) {
  expects_samples(samples.x0, "x0");
  expects_per_sample(samples.reward, samples.x0, "reward");
  expects_per_sample(samples.prompt, samples.x0, "prompt");
  const Tensor prompt = samples.prompt.to(at::kCPU, at::kLong);
  const auto first = prompt.min().item<std::int64_t>(), last = prompt.max().item<std::int64_t>();
  expects(first >= 0 && (prompts == 0 || last < prompts), "prompt",
          "numbers of prompts that there are", first < 0 ? first : last);
  const Tensor reward = samples.reward.to(at::kCPU, at::kDouble);
  const Tensor scored = reward.isfinite().nonzero().flatten();
  expects(scored.numel() > 0, "reward", "at least one finite value", "none");
  const Rollout<Record> all{
      wide(samples.x0), prompt, prompt, at::arange(prompt.numel(), at::kLong), {}};
  ScoredRollout<Record> result{all.select(scored), {}};
  result.scores.reward = reward.index_select(0, scored);
  result.scores.group = result.rollout.group;
  result.scores.advantage = advantage(result.scores.reward, result.scores.group);
  result.is_everywhere = true;
  return result;
}

/// An OfflineTrainer whose composition makes sense, see there.
template <class P, class O, class... Components>
class StoredTrainer
    : public Training<StoredTrainer<P, O, Components...>, P, O,
                      detail::Pick<detail::PromptKind, NoPrompts, Components...>,
                      detail::Pick<detail::CommunicatorKind, Alone, Components...>> {
  using Prompts = detail::Pick<detail::PromptKind, NoPrompts, Components...>;
  using Base = Training<StoredTrainer, P, O, Prompts,
                        detail::Pick<detail::CommunicatorKind, Alone, Components...>>;

 public:
  /// See OfflineTrainer.
  StoredTrainer(P policy, const StoredSamples& samples, O objective,
                const Components&... components)
      : Base(std::move(policy), std::move(objective),
             detail::pick<detail::PromptKind, NoPrompts>(components...),
             detail::pick<detail::SeedKind, Seed>(components...).value,
             detail::pick<detail::LearningKind, Learning>(components...),
             detail::pick<detail::OptimizationKind, Optimization>(components...), adamw(),
             detail::pick<detail::CommunicatorKind, Alone>(components...)),
        samples_(stored<RecordOf<O>>(
            samples, std::same_as<Prompts, NoPrompts> ? 0 : this->source_.size(),
            detail::pick<detail::AdvantageKind, GroupAdvantage>(components...))),
        masked_(samples.x0.size(0) - samples_.rollout.size()) {
    auto forward = detail::pick<detail::ForwardKind, ForwardProcess>(components...);
    if (!forward.times) forward.times = UniformTimes{};
    this->learner_.set(std::move(forward));
    if constexpr (!is_alone<std::remove_cvref_t<decltype(this->communicator_)>>) {
      this->settings_.emplace_back("x0", bits_text(samples.x0));
      this->settings_.emplace_back("reward", bits_text(samples.reward));
      this->settings_.emplace_back("prompt", bits_text(samples.prompt));
    }
  }

  using Base::run_epoch;
  /// One pass over the samples. The role `old` stands for whoever made them, and stays where it is.
  template <class Warn>
  EpochReport run_epoch(Warn&&) {
    return this->undone_if_given_up(this->learner_.steps(), [&] {
      const Stopwatch watch;
      EpochReport report;
      report.add("reward/masked", double(masked_));
      const Generator stream =
          seeded(this->seed_).stream(Purpose::order, static_cast<std::uint64_t>(this->epoch_));
      LearnReport learnt;
      this->learner_.learn(samples_, grid_, stream, learnt);
      this->add_learnt(report, std::move(learnt));
      this->seconds_ += watch.seconds();
      report.add("seconds/epoch", watch.seconds());
      this->finish(report);
      return report;
    });
  }

 private:
  ScoredRollout<RecordOf<O>> samples_;
  std::int64_t masked_;
  TimeGrid grid_ = sd3_grid(10);  ///< for GridTimes without a grid of their own
};

namespace detail {

/// Whether stored samples can be trained on by an objective, and in a sentence why not.
template <class P, class O, class... Components>
struct OfflineComposition {
  using C = ConditionOf<Pick<PromptKind, NoPrompts, Components...>>;
  using Comm = Pick<CommunicatorKind, Alone, Components...>;
  static constexpr bool learns = !O::uses_transitions && !O::uses_paths && O::size > 0;
  static constexpr bool has_settings_of_rollouts =
      count_of<CollectionKind, Components...> + count_of<ScoringKind, Components...> +
          count_of<EvaluationKind, Components...> + count_of<AheadKind, Components...> >
      0;

  static consteval bool explain() {
    static_assert(!O::uses_transitions,
                  "contraflow: stored samples have no transitions: use an objective on the forward "
                  "process such as Nft, Awm, Dpo or BestOfGroup");
    static_assert(!O::uses_paths,
                  "contraflow: the gradient of a reward goes through the path that made a sample, "
                  "and stored samples have none: use an objective on the forward process such as "
                  "Nft, Awm, Dpo or BestOfGroup");
    static_assert(!has_settings_of_rollouts,
                  "contraflow: an OfflineTrainer neither collects nor evaluates: leave out "
                  "Collection, Scoring, EvaluationOptions and Ahead");
    static_assert(explain_trained<P, C>());
    if constexpr (Policy<P, C>) static_assert(explain_roles<O, P>());
    if constexpr (learns) static_assert(explain_components<O, Components...>());
    static_assert(explain_ranks<P, Comm>());
    return true;
  }
  static consteval bool fits() {
    if constexpr (!Policy<P, C>) {
      return false;
    } else {
      return learns && !has_settings_of_rollouts && has_roles_of<O, P>() &&
             has_its_ranks<P, Comm>() && ComponentCheck<O, Components...>::fits;
    }
  }
};

}  // namespace detail

/// Reinforcement learning from stored samples: no policy is asked to generate.
///
/// Works with every objective on the forward process. The role `old` stands for whoever made the
/// samples and never moves, whatever the policy's schedule.
///
/// `OfflineTrainer(policy, samples, objective, components...)`: components are Learning,
/// Optimization, ForwardProcess (default UniformTimes), Seed, a PromptSource (where the numbers of
/// prompts lead), an Advantage and a Communicator, in any order. Of several ranks all have all
/// samples, and each learns from its share of every step.
template <class P, class O, class... Components>
class OfflineTrainer
    : public std::conditional_t<detail::OfflineComposition<P, O, Components...>::fits(),
                                StoredTrainer<P, O, Components...>, detail::RefusedTrainer> {
  static_assert(detail::OfflineComposition<P, O, Components...>::explain());
  using Base = std::conditional_t<detail::OfflineComposition<P, O, Components...>::fits(),
                                  StoredTrainer<P, O, Components...>, detail::RefusedTrainer>;

 public:
  /// @param policy is trained
  /// @param samples stored samples; those without a finite reward are left out and counted
  /// @param objective terms on the forward process
  /// @param components settings, prompts, an advantage: any of them, in any order
  /// @throws Error if shapes do not fit, no sample has a reward, or an option is out of range
  template <class RawObjective>
  OfflineTrainer(P policy, const StoredSamples& samples, RawObjective objective,
                 const Components&... components)
      : Base(std::move(policy), samples, as_sum(std::move(objective)), components...) {}
};

/// Deduces the types of all parts.
template <class P, class O, class... Components>
OfflineTrainer(P, StoredSamples, O, Components...)
    -> OfflineTrainer<P, decltype(as_sum(std::declval<O>())), Components...>;

}  // namespace contraflow
