#pragma once

/// @file
/// Samples of an older policy: importance weights, rejection, and how far they are off.

#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <contraflow/objective/policy_gradient.hpp>

namespace contraflow {

/// Largest absolute log-ratio that is exponentiated.
inline constexpr double largest_log_ratio = 20;

/// `log p_train - log p_rollout` of each step, clamped to plus and minus 20, in float64: what is
/// made of small ones is smaller still.
/// @par Shape
/// both [B, S]; result float64 [B, S]
inline Tensor stale_log_ratio(const Tensor& log_prob, const Tensor& rollout_log_prob) {
  return (log_prob.to(at::kDouble) - rollout_log_prob.to(at::kDouble))
      .clamp(-largest_log_ratio, largest_log_ratio);
}

/// Over what an importance weight is taken.
enum class ImportanceOver {
  none,      ///< no weights
  step,      ///< each step has its own
  sequence,  ///< one for all steps of a sample: the ratio of the densities of its trajectory
};

/// Importance weights of stale samples (as in verl's rollout correction).
struct Importance {
  ImportanceOver over = ImportanceOver::sequence;  ///< of what
  double upper = 2;                                ///< greatest weight, above 0
  /// Unset: weights above the upper bound are cut down to it. Set: those outside of both bounds
  /// become 0.
  std::optional<double> lower = {};
  bool normalise = false;  ///< divide by the mean of all weights
};

/// The weights before they are normalised.
/// @param log_ratio see stale_log_ratio(), [B, S]
/// @param importance settings
/// @return alike, without gradient; ones where there are none
/// @throws Error if a bound is out of range
inline Tensor importance_weights(const Tensor& log_ratio, const Importance& importance) {
  expects(importance.upper > 0, "upper", "above 0", importance.upper);
  const Tensor lr = log_ratio.detach();
  if (importance.over == ImportanceOver::none) return at::ones_like(lr);
  const Tensor exponent =
      importance.over == ImportanceOver::step
          ? lr
          : lr.sum(1, true).clamp(-largest_log_ratio, largest_log_ratio).expand_as(lr);
  const Tensor weight = exponent.exp();
  if (!importance.lower) return weight.clamp_max(importance.upper);
  const Tensor outside = (weight < *importance.lower).logical_or(weight > importance.upper);
  return weight.masked_fill(outside, 0);
}

/// The share of samples that weights leave effective, `(sum w)^2 / (n sum w^2)` (Kish).
/// @param weight any shape
/// @return without dimensions
inline Tensor effective_sample_share(const Tensor& weight) {
  return weight.sum().square() / (weight.square().sum() * double(weight.numel()));
}

/// By what a step is rejected: estimators of the divergence of log-ratios (Schulman 2020).
enum class Divergence {
  k1,  ///< `-lr`
  k2,  ///< `lr^2 / 2`
  k3,  ///< `exp(lr) - 1 - lr`
};

/// Over what of the window of a sample a rejection is decided.
enum class RejectBy {
  step,  ///< each step by its own
  sum,   ///< all steps of a sample by their sum
  mean,  ///< by their mean
  max,   ///< by their maximum
};

/// Which samples are too stale.
struct Rejection {
  Divergence divergence = Divergence::k1;  ///< of what
  RejectBy by = RejectBy::mean;            ///< of which steps
  double upper = 2;                        ///< of k2 and k3 the greatest; of k1 its exponential's
  double lower = 0.5;                      ///< of k1 alone: the least exponential, above 0
};

/// An estimator of the divergence of each step.
/// @par Shape
/// [B, S] to [B, S]
inline Tensor divergence_of(const Tensor& log_ratio, Divergence divergence) {
  switch (divergence) {
    case Divergence::k1:
      return -log_ratio;
    case Divergence::k2:
      return log_ratio.square() / 2;
    case Divergence::k3:
      return log_ratio.exp() - 1 - log_ratio;
  }
  return -log_ratio;
}

/// Which steps are kept, 1 or 0: `k2`, `k3` at most the upper bound, `k1` between the logarithms of
/// both. Since k1 is minus the log-ratio, bounds of 0.5 and 3 allow ratios from 1/3 to 2.
/// @param log_ratio see stale_log_ratio(), [B, S]
/// @param rejection settings
/// @return alike
/// @throws Error if a bound is out of range
inline Tensor kept_steps(const Tensor& log_ratio, const Rejection& rejection) {
  const Tensor own = divergence_of(log_ratio.detach(), rejection.divergence);
  Tensor value = own;
  if (rejection.by == RejectBy::sum) value = own.sum(1, true);
  if (rejection.by == RejectBy::mean) value = own.mean(1, true);
  if (rejection.by == RejectBy::max) value = own.amax(1, true);
  Tensor kept;
  if (rejection.divergence == Divergence::k1) {
    expects(rejection.lower > 0, "lower", "above 0", rejection.lower);
    expects(rejection.upper > rejection.lower, "upper", "above lower", rejection.upper);
    kept = (value >= std::log(rejection.lower)).logical_and(value <= std::log(rejection.upper));
  } else {
    expects(rejection.upper >= 0, "upper", "at least 0", rejection.upper);
    kept = value <= rejection.upper;
  }
  return kept.to(own.scalar_type()).expand_as(own);
}

/// Steps that pass several rejections, all of them: 1 or 0, [B, S]; ones without any.
inline Tensor kept_steps(const Tensor& log_ratio, const std::vector<Rejection>& rejections) {
  Tensor kept = at::ones_like(log_ratio.detach());
  for (const Rejection& rejection : rejections) kept = kept * kept_steps(log_ratio, rejection);
  return kept;
}

/// Corrects for samples that an older policy made: a component of a Trainer, for policy gradients
/// on transitions whose samples are collected Ahead or by a Collector of your own, as in verl's
/// rollout correction.
///
/// Before the first gradient step of an epoch the log-densities of its transitions are computed
/// once more, with the weights of then: `lr = log p - log p_rollout`, see stale_log_ratio(). The
/// loss of each transition is multiplied by an importance weight of lr, and by 0 where it is
/// rejected; rejected ones count in the mean. It costs an evaluation a recorded transition.
struct RolloutCorrection {
  /// Ratios of the loss are relative to the weights before the first gradient step (p_old), and
  /// importance weights stand for the rest; false: they are relative to who sampled, as without a
  /// correction, and nothing but rejection is done (bypass).
  bool decoupled = true;
  Importance importance = {};              ///< of the weights
  std::vector<Rejection> rejections = {};  ///< all of which a transition must pass
};

/// Throws Error unless a correction's settings are in range.
inline void expects_valid(const RolloutCorrection& correction) {
  const Tensor none = at::zeros({1, 1}, at::kDouble);
  if (correction.decoupled && correction.importance.over != ImportanceOver::none) {
    importance_weights(none, correction.importance);
  }
  kept_steps(none, correction.rejections);
}
/// In which ranks must agree.
inline std::string settings_text(const RolloutCorrection& correction) {
  const auto& [over, upper, lower, normalise] = correction.importance;
  return shown(correction.decoupled) + " " + shown(int(over)) + " " + shown(upper) + " " +
         (lower ? shown(*lower) : "none") + " " + shown(normalise) + " " +
         shown(correction.rejections.size());
}

/// How far samples are from the policy that is trained, without dimensions each.
struct Staleness {
  Tensor kl;             ///< mean of k1
  Tensor k3;             ///< mean of k3
  Tensor chi2_step;      ///< mean of `exp(2 lr)`, less 1
  Tensor chi2_sequence;  ///< the same of the sums over steps
};

/// How far samples are off.
/// @param log_ratio see stale_log_ratio(), [B, S]
inline Staleness staleness(const Tensor& log_ratio) {
  const Tensor lr = log_ratio.detach();
  return {divergence_of(lr, Divergence::k1).mean(), divergence_of(lr, Divergence::k3).mean(),
          (2 * lr).exp().mean() - 1, (2 * lr.sum(1)).exp().mean() - 1};
}

/// Log-densities of the steps of stale samples.
/// @par Shape
/// all [B, S]
struct StaleLogProbs {
  Tensor current;  ///< under the policy that is trained, with gradient
  /// Under the policy before the update, computed anew (decoupled); undefined: the rollout's stand
  /// for them (bypass), which leaves no weights but rejection.
  Tensor old = {};
  Tensor rollout;  ///< under the policy that sampled, as it said
};

/// What a corrected loss consists of.
struct CorrectedTerms {
  Tensor log_ratio;        ///< of the policy before the update to that of the rollout, [B, S]
  Tensor importance = {};  ///< weights before they are normalised; undefined where there are none
  Tensor kept;             ///< 1 or 0, [B, S]
  Tensor weight;           ///< 0 where not kept, [B, S]
  Tensor loss;             ///< of each step, [B, S]: rejected ones count in its mean
};

/// The clipped policy loss of stale samples, weighted and with rejections (as in verl's rollout
/// correction).
///
/// Decoupled: `w PPO(exp(log p - log p_old), a)` with w an importance weight of `log p_old - log
/// p_rollout`. Bypass: `PPO(exp(log p - log p_rollout), a)`, rejected by `log p - log p_rollout`.
/// @param log_probs of all steps
/// @param advantage clipped, [B]
/// @param clip_range c, above 0
/// @param importance of the weights; nothing in bypass
/// @param rejections all of which a step must pass
/// @throws Error if shapes do not fit or a setting is out of range
inline CorrectedTerms corrected_policy_loss(const StaleLogProbs& log_probs, const Tensor& advantage,
                                            double clip_range, const Importance& importance,
                                            const std::vector<Rejection>& rejections) {
  expects(clip_range > 0, "clip_range", "above 0", clip_range);
  expects_like(log_probs.rollout, log_probs.current, "rollout");
  const bool bypasses = !log_probs.old.defined();
  CorrectedTerms terms;
  terms.log_ratio =
      stale_log_ratio(bypasses ? log_probs.current.detach() : log_probs.old, log_probs.rollout);
  terms.kept = kept_steps(terms.log_ratio, rejections);
  terms.weight = terms.kept;
  if (!bypasses && importance.over != ImportanceOver::none) {
    terms.importance = importance_weights(terms.log_ratio, importance);
    const Tensor weight =
        importance.normalise ? terms.importance / terms.importance.mean() : terms.importance;
    terms.weight = weight * terms.kept;
  }
  const Tensor ratio = (log_probs.current - (bypasses ? log_probs.rollout : log_probs.old)).exp();
  terms.loss =
      terms.weight *
      clipped_policy_loss(ratio, advantage.to(ratio.scalar_type()).unsqueeze(1), clip_range);
  return terms;
}

}  // namespace contraflow
