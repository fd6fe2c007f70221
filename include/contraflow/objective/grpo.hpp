#pragma once

/// @file
/// Policy gradients on the steps of a stochastic solver.

#include <cmath>
#include <optional>
#include <string_view>

#include <contraflow/objective/concept.hpp>
#include <contraflow/objective/policy_gradient.hpp>

namespace contraflow {

namespace detail {

/// The mean of the transition of `current` in a batch.
template <class Batch>
Tensor mean_of_current(const Batch& batch) {
  return batch.transition.mean(batch.x, velocity<Role::current>(batch));
}

/// Tells of something by step, where that is asked for.
inline void add_by_step(Statistics& statistics, const TransitionRows& transition,
                        std::string_view name, const Tensor& values) {
  if (!transition.step.defined()) return;
  statistics.add_by_step(name, values.detach(), transition.step, transition.steps);
}

/// Tells of ratios by step: their mean, the mean square of what they differ from 1 by, the least
/// and the greatest.
inline void add_ratios_by_step(Statistics& statistics, const TransitionRows& transition,
                               const Tensor& ratio) {
  add_by_step(statistics, transition, "ratio", ratio);
  add_by_step(statistics, transition, "ratio_deviation", (ratio - 1).square());
  if (!transition.step.defined()) return;
  statistics.add_extremes_by_step("ratio", ratio, transition.step, transition.steps);
}
/// The same, and the shares beyond either end of a clip range.
inline void add_ratios_by_step(Statistics& statistics, const TransitionRows& transition,
                               const Tensor& ratio, double clip_range) {
  add_ratios_by_step(statistics, transition, ratio);
  add_by_step(statistics, transition, "clipped_below", ratio < 1 - clip_range);
  add_by_step(statistics, transition, "clipped_above", ratio > 1 + clip_range);
}

/// The clipped loss of a ratio, and what is told of it.
inline Tensor clipped_loss(const TransitionRows& transition, const Tensor& log_ratio,
                           const Tensor& advantage, double clip_range, Statistics& statistics) {
  expects(clip_range > 0, "clip_range", "above 0", clip_range);
  const Tensor ratio = log_ratio.exp();
  statistics.add("clip_fraction", is_clipped(ratio, clip_range));
  statistics.add("approximate_kl", approximate_kl(log_ratio));
  add_ratios_by_step(statistics, transition, ratio, clip_range);
  return clipped_policy_loss(ratio, advantage.to(ratio.scalar_type()), clip_range);
}

}  // namespace detail

/// Flow-GRPO: the clipped policy gradient on the steps of an SDE (arXiv 2505.05470).
///
/// `loss = max(-a ratio, -a clip(ratio, 1 - c, 1 + c))` with `ratio = exp(log p - log p_old)`,
/// log-densities as means over dimensions, which is why c is small. Samples without advantage are
/// not trained on.
struct Grpo {
  using Velocities = Roles<Role::current>;          ///< whose velocities it needs
  using Points = RecordedTransitions;               ///< where it needs them
  static constexpr std::string_view name = "grpo";  ///< under which it is reported

  double clip_range = 1e-4;   ///< c, above 0
  double advantage_clip = 5;  ///< advantages are clipped to plus and minus this, above 0

  /// Advantages, clipped.
  Tensor signal(const Scores& scores) const { return clipped_advantages(scores, advantage_clip); }
  /// Samples that differ from their group.
  Tensor keep(const Scores& scores) const { return scores.advantage != 0; }

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& advantage, Statistics& statistics) const {
    const Tensor mean = detail::mean_of_current(batch);
    const Tensor log_ratio = batch.transition.log_density(batch.next, mean) - batch.old_log_prob;
    return batch.weighted(
        detail::clipped_loss(batch.transition, log_ratio, advantage, clip_range, statistics));
  }
};

/// GRPO-Guard: Flow-GRPO whose ratio has neither bias nor scale of its own, and whose gradients
/// have one size at all steps (arXiv 2510.22319).
///
/// `loss = max(-a ratio, -a clip(ratio, 1 - c, 1 + c)) / (-dt)` with `log ratio = std (log p -
/// log p_old + mean (mean - mean_old)^2 / (2 std^2))`, computed as normalised_log_ratio(): of mean
/// 0 and one spread at every step, so that the clip bites at both sides. At a ratio of 1 the
/// gradient of a step of FlowSde by the velocity is that of plain Flow-GRPO times `s (-dt)^(-1/2)`:
/// the same factor k at all steps. For SDEs whose std holds a level times `sqrt(-dt)`.
struct GrpoGuard {
  using Velocities = Roles<Role::current>;          ///< whose velocities it needs
  using Points = RecordedTransitions;               ///< where it needs them
  static constexpr std::string_view name = "grpo";  ///< under which it is reported
  static constexpr bool records_mean = true;        ///< it needs means of transitions

  double clip_range = 1e-4;   ///< c, above 0; published are 2e-6 to 1e-4
  double advantage_clip = 5;  ///< advantages are clipped to plus and minus this, above 0
  bool reweight = true;       ///< divide by the length of the step; false: the ratio alone

  /// Advantages, clipped.
  Tensor signal(const Scores& scores) const { return clipped_advantages(scores, advantage_clip); }
  /// Samples that differ from their group.
  Tensor keep(const Scores& scores) const { return scores.advantage != 0; }

  /// The loss of each sample, [B].
  /// @throws Error if it divides and the record has no lengths of steps
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& advantage, Statistics& statistics) const {
    const TransitionRows& transition = batch.transition;
    const Tensor log_ratio = normalised_log_ratio(batch.next, detail::mean_of_current(batch),
                                                  batch.old_mean, transition.std);
    const Tensor loss = batch.weighted(
        detail::clipped_loss(batch.transition, log_ratio, advantage, clip_range, statistics));
    return reweight ? loss * step_length_weight(transition.lengths()) : loss;
  }
};

/// TempFlow-GRPO: Flow-GRPO with each step weighted by its noise (arXiv 2508.04324).
///
/// `loss = factor std max(-a ratio, -a clip(ratio, 1 - c, 1 + c))`: steps that can change more
/// count for more. A TransitionKl beside it is not weighted.
struct TempFlowGrpo {
  using Velocities = Roles<Role::current>;              ///< whose velocities it needs
  using Points = RecordedTransitions;                   ///< where it needs them
  static constexpr std::string_view name = "tempflow";  ///< under which it is reported

  double clip_range = 1e-4;   ///< c, above 0
  double advantage_clip = 5;  ///< advantages are clipped to plus and minus this, above 0
  /// Of std in the weight, above 0; unset: 1 over the mean std of the recorded steps, so that the
  /// weights of a trajectory have the mean 1, see noise_level_weights().
  std::optional<double> factor = {};

  /// Advantages, clipped.
  Tensor signal(const Scores& scores) const { return clipped_advantages(scores, advantage_clip); }
  /// Samples that differ from their group.
  Tensor keep(const Scores& scores) const { return scores.advantage != 0; }

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& advantage, Statistics& statistics) const {
    const TransitionRows& transition = batch.transition;
    const double scale = factor.value_or(1 / transition.mean_std);
    expects(std::isfinite(scale) && scale > 0, "factor", "a finite number above 0", scale);
    const Tensor mean = detail::mean_of_current(batch);
    const Tensor log_ratio = transition.log_density(batch.next, mean) - batch.old_log_prob;
    return batch.weighted(
        detail::clipped_loss(batch.transition, log_ratio, advantage, clip_range, statistics) *
        (transition.std * scale));
  }
};

/// `mean (mean - mean_old)^2 / (2 std^2)`, or `/ 2`: Flow-DPPO's divergence of a step from the
/// collecting policy, a mean over dimensions (arXiv 2606.11025; there a sum).
/// @par Shape
/// means [B, ...], std [B] or [1]; result [B]
inline Tensor dppo_divergence(const Tensor& mean, const Tensor& mean_old, const Tensor& std,
                              bool divide_by_variance = true) {
  return transition_kl(mean, mean_old, divide_by_variance ? std : at::ones_like(std));
}

/// Which samples' steps Flow-DPPO keeps, 1 or 0: not those that are @p threshold or more away and
/// that the gradient would take further (arXiv 2606.11025). Without gradient.
/// @par Shape
/// all [B]
inline Tensor dppo_kept(const Tensor& divergence, const Tensor& ratio, const Tensor& advantage,
                        double threshold) {
  const Tensor further =
      (advantage > 0).logical_and(ratio > 1).logical_or((advantage < 0).logical_and(ratio < 1));
  return (divergence >= threshold).logical_and(further).logical_not().to(ratio.scalar_type());
}

/// Flow-DPPO: a policy gradient that drops steps by their divergence instead of clipping ratios
/// (arXiv 2606.11025).
///
/// `loss = -a ratio`, with ratios as in Grpo; 0 for a step whose divergence is at least the
/// threshold and whose gradient would take it further away. Advantages are not clipped.
struct FlowDppo {
  using Velocities = Roles<Role::current>;          ///< whose velocities it needs
  using Points = RecordedTransitions;               ///< where it needs them
  static constexpr std::string_view name = "dppo";  ///< under which it is reported
  static constexpr bool records_mean = true;        ///< it needs means of transitions

  double threshold = 1e-5;         ///< of the divergence, above 0
  bool divide_by_variance = true;  ///< see dppo_divergence()

  /// Advantages.
  Tensor signal(const Scores& scores) const { return scores.advantage; }
  /// Samples that differ from their group.
  Tensor keep(const Scores& scores) const { return scores.advantage != 0; }

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& advantage, Statistics& statistics) const {
    expects(threshold > 0, "threshold", "above 0", threshold);
    const Tensor mean = detail::mean_of_current(batch);
    const Tensor log_ratio = batch.transition.log_density(batch.next, mean) - batch.old_log_prob;
    const Tensor ratio = log_ratio.exp(), a = advantage.to(ratio.scalar_type());
    const Tensor divergence =
        dppo_divergence(mean.detach(), batch.old_mean, batch.transition.std, divide_by_variance);
    const Tensor kept = dppo_kept(divergence, ratio.detach(), a, threshold);
    statistics.add("masked_fraction", 1 - kept);
    statistics.add("divergence", divergence);
    detail::add_ratios_by_step(statistics, batch.transition, ratio);
    detail::add_by_step(statistics, batch.transition, "masked", 1 - kept);
    return batch.weighted(-a * ratio * kept);
  }
};

/// KL divergence of a step's transition from the reference's, see transition_kl.
struct TransitionKl {
  using Velocities = Roles<Role::current, Role::reference>;  ///< whose velocities it needs
  using Points = RecordedTransitions;                        ///< where it needs them
  static constexpr std::string_view name = "transition_kl";  ///< under which it is reported

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics&) const {
    const TransitionRows& transition = batch.transition;
    return transition_kl(transition.mean(batch.x, velocity<Role::current>(batch)),
                         transition.mean(batch.x, velocity<Role::reference>(batch)),
                         transition.std);
  }
};

}  // namespace contraflow
