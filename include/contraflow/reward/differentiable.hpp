#pragma once

/// @file
/// Rewards whose gradient by the sample is known.

#include <optional>
#include <string>
#include <utility>

#include <contraflow/reward/concept.hpp>

namespace contraflow {

/// `R::gives_gradients`: the scores are computed in autograd from the samples.
template <class R>
concept HasGradients = requires {
  requires R::gives_gradients;
};

namespace detail {
/// Whether a reward gives its scores as a tensor, under the reference that there is.
template <class R, class Reference>
consteval bool scores_are_tensors() {
  if constexpr (HasReferencedScores<R, Reference>) {
    return std::convertible_to<ReferencedResult<R, Reference>, Tensor>;
  } else if constexpr (HasScores<R>) {
    return std::convertible_to<PlainResult<R>, Tensor>;
  } else {
    return false;
  }
}
}  // namespace detail

/// A Reward whose scores are a tensor in autograd: what Refl and DraftK train on.
///
/// Valid expressions: those of Reward, with a tensor [B] for a result, and `R::gives_gradients`.
/// Law: the scores of samples that require gradients require them, too. No black box has gradients:
/// what does is said by the type, or by differentiable().
template <class R, class Reference = Unconditional>
concept DifferentiableReward = Reward<R, Reference> && HasGradients<R> &&
    detail::scores_are_tensors<R, Reference>();

/// A reward of yours that computes in autograd, see differentiable().
template <class R>
class Differentiable {
 public:
  static constexpr bool gives_gradients = true;  ///< see HasGradients

  /// @param reward a Reward that gives a tensor
  explicit Differentiable(R reward) : reward_(std::move(reward)) {}

  /// As the reward's.
  auto operator()(const Tensor& x0) const requires HasScores<R> { return reward_(x0); }
  /// As the reward's.
  template <class Reference>
  Tensor operator()(const Tensor& x0,
                    const Reference& reference) const requires HasReferencedScores<R, Reference> {
    return reward_(x0, reference);
  }

 private:
  R reward_;
};

/// Says of a reward that its scores have gradients by the samples: `cf::differentiable([](const
/// cf::Tensor& x0) { return ...; })`.
/// @param reward a Reward that gives a tensor, computed in autograd from the samples
template <class R>
Differentiable<R> differentiable(R reward) {
  return Differentiable<R>(std::move(reward));
}

/// Says in a sentence why @p R is not a DifferentiableReward under the reference @p Reference.
template <class R, class Reference = Unconditional>
consteval bool explain_differentiable_reward() {
  if constexpr (explain_reward<R, Reference>()) {
    static_assert(
        HasGradients<R>,
        "contraflow: this objective trains on the gradient of the reward, and this Reward does "
        "not say that it has one: wrap a reward that computes in autograd by "
        "contraflow::differentiable(reward); one that is a black box trains by an objective that "
        "takes its scores alone, such as Nft");
    static_assert(!HasGradients<R> || detail::scores_are_tensors<R, Reference>(),
                  "contraflow: a reward with gradients must return a torch::Tensor [B]");
  }
  return true;
}

/// The scores of samples, in autograd.
/// @param reward a DifferentiableReward
/// @param x0 samples [B, ...]
/// @param reference of their prompts
/// @return [B], with gradient
/// @throws Error if there is not one score a sample, or they have no gradient while the samples
/// have
template <class R, class Reference>
Tensor differentiable_scores(const R& reward, const Tensor& x0, const Reference& reference) {
  Tensor scores;
  if constexpr (HasReferencedScores<R, Reference>) {
    scores = reward(x0, reference);
  } else {
    scores = reward(x0);
  }
  detail::expects_scores({scores, {}}, x0.size(0), "reward");
  if (x0.requires_grad() && !scores.requires_grad()) {
    throw Error("reward", "scores with a gradient by the samples", "scores without any");
  }
  return scores;
}

/// The loss of a differentiable reward, `scale max(clip - R, 0)`, or `-scale R` without a clip: a
/// reward above the clip is good enough (ReFL, arXiv 2304.05977).
/// @param reward R of each sample, [B]
/// @param clip above which a sample teaches nothing; unset: none
/// @param scale of the loss, above 0
/// @return [B]
/// @throws Error unless the scale is above 0
inline Tensor reward_loss(const Tensor& reward, std::optional<double> clip, double scale) {
  expects(scale > 0, "scale", "above 0", scale);
  return clip ? scale * (*clip - reward).clamp_min(0) : -scale * reward;
}

}  // namespace contraflow
