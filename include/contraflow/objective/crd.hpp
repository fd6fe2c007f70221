#pragma once

/// @file
/// Centred reward distillation.

#include <optional>
#include <string_view>
#include <utility>

#include <contraflow/objective/informative.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/objective/regression.hpp>

namespace contraflow {

/// By what the implicit reward is fitted to the reward.
enum class CrdFit {
  squares,        ///< squared differences
  cross_entropy,  ///< of logits of the one against the sigmoid of the other
};

/// Settings of a centred reward distillation.
struct CrdOptions {
  double beta = 1;               ///< strength of the implicit reward, above 0
  CrdFit fit = CrdFit::squares;  ///< the measure
  double clip = 5;               ///< a factor of the loss: where advantages were clipped, above 0
  double weight_floor = 1e-5;    ///< least denominator of the adaptive weight, above 0
  bool adaptive = true;          ///< errors are divided by their size
  /// Of the softmax of r by which averages are weighted, both ways, half of the loss each. Below 0:
  /// plain averages. 0: the published branch for it, one half by plain averages and the other by a
  /// softmax of temperature 1 over those of r above 0.
  double temperature = -1;
};

/// The average over each sample's group, weighted: [B] to [B], the same for all of a group.
/// @par Shape
/// @p values and @p weights [B], @p group int64 [B] in [0, B)
inline Tensor average_in_group(const Tensor& values, const Tensor& weights, const Tensor& group) {
  const Tensor sums = at::zeros_like(values);
  const Tensor weighted = sums.index_add(0, group, values * weights);
  const Tensor total = sums.index_add(0, group, weights).clamp_min(1e-30);
  return (weighted / total).index_select(0, group);
}

namespace detail {

/// `w_u = max(mean |u - v|, floor)`, or 1: what an error is divided by. Without gradient.
inline Tensor size_of_error(const Tensor& u, const Tensor& target, const CrdOptions& options) {
  if (!options.adaptive) return at::ones({u.size(0)}, u.options().dtype(at::kDouble));
  const Tensor difference = (u.detach().to(at::kDouble) - target.to(at::kDouble)).abs();
  return mean_per_sample(difference).clamp_min(options.weight_floor);
}

/// Weights of a softmax of @p logits within groups, up to a factor of each group.
inline Tensor softmax_weights(const Tensor& logits, const Tensor& group) {
  const Tensor greatest =
      at::full_like(logits, -1e300).scatter_reduce(0, group, logits, "amax", /*include_self=*/true);
  return (logits - greatest.index_select(0, group)).exp();
}

/// One loss of an implicit reward against r, both centred by the same weights: [B].
inline Tensor centred_loss(const Tensor& implicit, const Tensor& r, const Tensor& weights,
                           const Tensor& group, const CrdOptions& options) {
  const Tensor x = options.beta * (implicit - average_in_group(implicit.detach(), weights, group));
  const Tensor y = r - average_in_group(r, weights, group);
  if (options.fit == CrdFit::squares) return (x - y).square();
  const Tensor likely = y.sigmoid();
  return -(likely * at::log_sigmoid(x) + (1 - likely) * at::log_sigmoid(-x));
}

}  // namespace detail

/// The implicit reward of CRD, `-(e(v_theta) / w_theta - e(v_old) / w_old)` with flow-matching
/// errors e and `w_u = max(mean |u - v|, floor)` without gradient (arXiv 2603.14128).
/// @par Shape
/// all [B, ...]; result float64 [B]
inline Tensor implicit_reward(const Tensor& v_theta, const Tensor& v_old, const Tensor& target,
                              const CrdOptions& options) {
  // In float64, since errors that are nearly equal are subtracted.
  const auto error = [&](const Tensor& u) {
    return mean_per_sample((u.to(at::kDouble) - target.to(at::kDouble)).square()) /
           detail::size_of_error(u, target, options);
  };
  return error(v_old) - error(v_theta);
}

/// CRD's loss of each sample (arXiv 2603.14128): the implicit reward is fitted to the reward, both
/// about their averages, in which the normalising constant of the policy that would be best
/// cancels.
///
/// `(beta (R - avg R) - (r - avg r))^2 clip / beta`, averages without gradient; with a temperature
/// T half the sum of two such losses whose averages are weighted by softmax(r / T) and softmax(-r /
/// T).
/// @param implicit see implicit_reward(), [B]
/// @param r in [0, 1], see Optimality, [B]
/// @param group over which averages are taken, int64 [B] in [0, B); all 0: over the batch, as
///   published; the samples of a prompt, as derived
/// @param options settings
/// @return float64 [B]
/// @throws Error if an option is out of range
inline Tensor crd_loss(const Tensor& implicit, const Tensor& r, const Tensor& group,
                       const CrdOptions& options) {
  expects(options.beta > 0, "beta", "above 0", options.beta);
  expects(options.clip > 0, "clip", "above 0", options.clip);
  const Tensor exact = implicit.to(at::kDouble), given = r.to(exact.options());
  const auto loss = [&](const Tensor& weights) {
    return detail::centred_loss(exact, given, weights, group, options);
  };
  const double factor = options.clip / options.beta;
  const Tensor plain = at::ones_like(given);
  if (options.temperature < 0) return factor * loss(plain);
  if (options.temperature == 0) {
    // Where no r of a group is above 0 plain averages stand in, as published.
    const Tensor some = average_in_group(given.sign(), plain, group) > 0;
    const Tensor soft = detail::softmax_weights(given, group) * given.sign();
    return factor / 2 * (loss(plain) + loss(at::where(some, soft, plain)));
  }
  const Tensor logits = given / options.temperature;
  return factor / 2 *
         (loss(detail::softmax_weights(logits, group)) +
          loss(detail::softmax_weights(-logits, group)));
}

/// `((1 - r) bad + r good) mean (v_theta - v_ref)^2`: a KL term that is stronger for good samples,
/// which have more to lose (CRD, arXiv 2603.14128).
struct OptimalityKl {
  using Velocities = Roles<Role::current, Role::reference>;  ///< whose velocities it needs
  using Points = ForwardProcess;                             ///< where it needs them
  static constexpr std::string_view name = "optimality_kl";  ///< under which it is reported

  double bad = 1e-4;           ///< weight at r = 0, at least 0
  double good = 0.1;           ///< weight at r = 1, at least 0
  Optimality optimality = {};  ///< the map from advantages to r

  /// The weight of each sample.
  Tensor signal(const Scores& scores) const {
    expects(bad >= 0, "bad", "at least 0", bad);
    expects(good >= 0, "good", "at least 0", good);
    const Tensor r = optimality(scores.advantage);
    return (1 - r) * bad + r * good;
  }

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& weight, Statistics& statistics) const {
    const Tensor kl = VelocityKl{}.loss(batch, {}, statistics);
    return weight.to(kl.scalar_type()) * kl;
  }
};

/// Centred reward distillation within groups (arXiv 2603.14128), see crd_loss().
///
/// The samples of a group are compared at the same noise and time. Groups of which a sample has no
/// score are left out. Published beside it: `+ OptimalityKl{}`.
///
/// A role of its own collects, `sampler`, which follows faster than `old`: so the implicit reward
/// does not die where the policy it is relative to follows too closely. Published are
/// `.old_decay = Linear{.value = 0.25, .slope = 0.005, .end = 0.999}` and the default of
/// `sampler_decay`.
struct Crd {
  using Velocities = Roles<Role::current, Role::old>;  ///< whose velocities it needs
  using Points = ForwardProcess;                       ///< where it needs them
  static constexpr std::string_view name = "crd";      ///< under which it is reported
  static constexpr Role collector = Role::sampler;     ///< who collects

  double beta = 1;               ///< see CrdOptions
  CrdFit fit = CrdFit::squares;  ///< see CrdOptions
  double temperature = -1;       ///< see CrdOptions
  bool adaptive = true;          ///< see CrdOptions
  double weight_floor = 1e-5;    ///< see CrdOptions
  Optimality optimality = {};    ///< the map from advantages to r; its clip is that of CrdOptions

  /// r of each sample, see Optimality.
  Tensor signal(const Scores& scores) const { return optimality(scores.advantage); }
  /// Whole groups.
  Tensor groups(const Scores& scores) const { return complete_groups(scores); }

  /// The loss of each sample, [B], whole groups.
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& r, Statistics& statistics) const {
    const CrdOptions options{beta, fit, optimality.clip, weight_floor, adaptive, temperature};
    const Tensor implicit = implicit_reward(
        velocity<Role::current>(batch), velocity<Role::old>(batch), batch.eps - batch.x0, options);
    statistics.add("implicit_reward", implicit);
    return crd_loss(implicit, r, unit_of_rows(batch), options);
  }
};

}  // namespace contraflow
