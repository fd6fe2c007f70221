#pragma once

/// @file
/// What policy gradients on the steps of a stochastic solver are made of, on tensors.

#include <cmath>
#include <vector>

#include <contraflow/objective/batch.hpp>
#include <contraflow/time/grid.hpp>

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

/// Advantages of an epoch, clipped to plus and minus @p clip: what policy gradients take from the
/// scores.
/// @throws Error unless the clip is above 0
inline Tensor clipped_advantages(const Scores& scores, double clip) {
  expects(clip > 0, "advantage_clip", "above 0", clip);
  return scores.advantage.clamp(-clip, clip);
}

/// Over what the mean of squares in GRPO-Guard's ratio is taken.
enum class BiasOver {
  sample,  ///< each sample's own dimensions
  batch,   ///< the whole batch: a mistake of a published program, to compare with
};

/// GRPO-Guard's logarithm of the ratio out of log-densities (arXiv 2510.22319), as published:
/// `std (log p - log p_old + mean (mean - mean_old)^2 / (2 std^2))`.
///
/// A difference of nearly equal numbers, which in float32 is exact to 1e-7: with a clip range of
/// that order, rounding decides. GrpoGuard takes normalised_log_ratio(), which is the same where
/// @p old_log_prob is the log-density at @p mean_old.
/// @par Shape
/// log-densities [B], means [B, ...], std [B] or [1]; result [B]
inline Tensor guard_log_ratio(const Tensor& log_prob, const Tensor& old_log_prob,
                              const Tensor& mean, const Tensor& mean_old, const Tensor& std,
                              BiasOver over = BiasOver::sample) {
  const Tensor own = transition_kl(mean, mean_old, std);
  return std * (log_prob - old_log_prob + (over == BiasOver::sample ? own : own.mean()));
}

/// GRPO-Guard's logarithm of the ratio without log-densities: `mean((next - mean_old) (mean -
/// mean_old)) / std`, which has no cancellation (arXiv 2510.22319, rearranged).
///
/// With `next = mean_old + std z` it is `mean(z (mean - mean_old))`: of mean 0 and, for one
/// difference of means, of one spread at every step.
/// @par Shape
/// states and means [B, ...], std [B] or [1]; result [B]
inline Tensor normalised_log_ratio(const Tensor& next, const Tensor& mean, const Tensor& mean_old,
                                   const Tensor& std) {
  return mean_per_sample((wide(next) - mean_old) * (mean - mean_old)) / std;
}

/// GRPO-Guard's weight of a step, `-1 / dt`: with it the gradients of all steps of Flow-GRPO's SDE
/// have one size (arXiv 2510.22319).
/// @param dt length of each step, below 0; [B] or [1]
inline Tensor step_length_weight(const Tensor& dt) { return -dt.reciprocal(); }

/// Weights of steps by their noise, see noise_level_weights().
struct NoiseLevelWeights {
  Tensor std;         ///< of each trained step, float64 [T]
  double factor = 0;  ///< 1 over their mean
  Tensor weight;      ///< `factor std`, of mean 1, float64 [T]
};

/// TempFlow-GRPO's weights: the std of each trained step over their mean (arXiv 2508.04324). For
/// Stable Diffusion 3.5, ten steps of level 0.7, nine of them trained, the factor is 2.25.
/// @param solver a StochasticSolver
/// @param grid of the rollout
/// @param trained_steps the first so many steps of the grid, at least 1
/// @throws Error if there are not as many steps, or none of them is stochastic
template <StochasticSolver S>
NoiseLevelWeights noise_level_weights(const S& solver, const TimeGrid& grid,
                                      std::size_t trained_steps) {
  expects(trained_steps >= 1 && trained_steps <= grid.steps(), "trained_steps",
          "a number of steps from 1 to those of the grid", trained_steps);
  std::vector<double> stds;
  for (std::size_t i = 0; i < trained_steps; ++i) {
    stds.push_back(solver.transition(grid.step(i)).std);
  }
  NoiseLevelWeights weights{at::tensor(stds, at::kDouble), 0, {}};
  const auto mean = weights.std.mean().item<double>();
  expects(mean > 0, "solver", "at least one stochastic step to train on", "none");
  weights.factor = 1 / mean;
  weights.weight = weights.std * weights.factor;
  return weights;
}

}  // namespace contraflow
