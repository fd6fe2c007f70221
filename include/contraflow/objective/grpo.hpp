#pragma once

/// @file
/// Policy gradients on the steps of a stochastic solver.

#include <string_view>

#include <contraflow/objective/concept.hpp>

namespace contraflow {

/// The clipped policy loss, `max(-a ratio, -a clip(ratio, 1 - c, 1 + c))`, a sample each (Schulman
/// and others, 2017).
/// @par Shape
/// all [B]
inline Tensor clipped_policy_loss(const Tensor& ratio, const Tensor& advantage, double clip_range) {
  return at::maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip_range, 1 + clip_range));
}

/// `mean (mean - mean_ref)^2 / (2 std^2)` over all but the batch: KL divergence of two transitions
/// of equal std, a mean over dimensions.
/// @par Shape
/// means [B, ...], std [B] or [1]; result [B]
inline Tensor transition_kl(const Tensor& mean, const Tensor& mean_ref, const Tensor& std) {
  return mean_per_sample((mean - mean_ref).square()) / (2 * std.square());
}

/// `(log_prob - old_log_prob)^2 / 2`, [B]: an estimate of the divergence from the collecting
/// policy.
inline Tensor approximate_kl(const Tensor& log_ratio) { return 0.5 * log_ratio.square(); }

/// Whether a ratio lies outside of the clip range, 1 or 0: [B] to [B].
inline Tensor is_clipped(const Tensor& ratio, double clip_range) {
  return ((ratio - 1).abs() > clip_range).to(at::kFloat);
}

/// How the ratio of a transition's densities is taken.
enum class RatioForm {
  plain,       ///< `exp(log_prob - old_log_prob)`
  normalised,  ///< without its bias and its dependence on the step (GRPO-Guard)
};

/// Flow-GRPO: the clipped policy gradient on the steps of an SDE (arXiv 2505.05470).
///
/// `loss = max(-a ratio, -a clip(ratio, 1 - c, 1 + c))` with `ratio = exp(log p - log p_old)`,
/// log-densities as means over dimensions, which is why c is small. In its normalised form
/// (GRPO-Guard, arXiv 2510.22319) `log ratio = std (log p - log p_old + |mean - mean_old|^2 /
/// (2 std^2))`: mean 0 and the same spread at every step, so that the clip bites at both sides.
/// Samples without advantage are not trained on.
template <RatioForm Form>
struct BasicGrpo {
  using Velocities = Roles<Role::current>;          ///< whose velocities it needs
  using Points = RecordedTransitions;               ///< where it needs them
  static constexpr std::string_view name = "grpo";  ///< under which it is reported
  static constexpr bool records_mean =
      Form == RatioForm::normalised;  ///< whether it needs means of transitions

  double clip_range = 1e-4;   ///< c, above 0
  double advantage_clip = 5;  ///< advantages are clipped to plus and minus this, above 0

  /// Advantages, clipped.
  Tensor signal(const Scores& scores) const {
    expects(advantage_clip > 0, "advantage_clip", "above 0", advantage_clip);
    return scores.advantage.clamp(-advantage_clip, advantage_clip);
  }
  /// Samples that differ from their group.
  Tensor keep(const Scores& scores) const { return scores.advantage != 0; }

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& advantage, Statistics& statistics) const {
    expects(clip_range > 0, "clip_range", "above 0", clip_range);
    const Tensor mean = batch.transition.mean(batch.x, velocity<Role::current>(batch));
    const Tensor log_ratio = log_ratio_of(batch, mean);
    const Tensor ratio = log_ratio.exp();
    statistics.add("clip_fraction", is_clipped(ratio, clip_range));
    statistics.add("approximate_kl", approximate_kl(log_ratio));
    return clipped_policy_loss(ratio, advantage.to(ratio.scalar_type()), clip_range);
  }

 private:
  template <class Batch>
  static Tensor log_ratio_of(const Batch& batch, const Tensor& mean) {
    const Tensor plain = batch.transition.log_density(batch.next, mean) - batch.old_log_prob;
    if constexpr (Form == RatioForm::plain) return plain;
    const TransitionRows& transition = batch.transition;
    const Tensor bias = mean_per_sample((mean - batch.old_mean).square());
    // The factor is std for a Gaussian's own log-density, and its like for a rescaled one.
    return (plain - bias * transition.log_density_scale) /
           (-2 * transition.log_density_scale * transition.std);
  }
};

/// Flow-GRPO with plain ratios, as published.
using Grpo = BasicGrpo<RatioForm::plain>;
/// Flow-GRPO with normalised ratios (GRPO-Guard).
using GrpoGuard = BasicGrpo<RatioForm::normalised>;

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
