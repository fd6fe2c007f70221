#pragma once

/// @file
/// Negative-aware fine-tuning, in its published form and as the paper writes it.

#include <cmath>
#include <functional>
#include <string_view>
#include <tuple>

#include <contraflow/objective/fused_nft.hpp>
#include <contraflow/objective/velocity_kl.hpp>

namespace contraflow {

/// Which advantages count in the map to r (the published options).
enum class AdvantageMode {
  all,            ///< as they are
  positive_only,  ///< clipped to [0, clip]
  negative_only,  ///< clipped to [-clip, 0]
  one_only,       ///< 1 if above 0, else 0
  binary,         ///< the sign
};

/// The map from advantages to r in [0, 1]: `r = clip(a / (2 clip) + 1/2, 0, 1)`.
///
/// With clip 5 it is the published code's, with clip 1 and advantages divided by Z the paper's
/// equation `r = 1/2 + 1/2 clip((reward - mean) / Z, -1, 1)`.
struct Optimality {
  double clip = 5;                          ///< above 0
  AdvantageMode mode = AdvantageMode::all;  ///< which advantages count

  /// @par Shape
  /// @p advantage [N]; result alike
  Tensor operator()(const Tensor& advantage) const {
    expects(clip > 0, "clip", "above 0", clip);
    return (selected(advantage.clamp(-clip, clip)) / (2 * clip) + 0.5).clamp(0, 1);
  }

 private:
  Tensor selected(const Tensor& a) const {
    switch (mode) {
      case AdvantageMode::all:
        return a;
      case AdvantageMode::positive_only:
        return a.clamp_min(0);
      case AdvantageMode::negative_only:
        return a.clamp_max(0);
      case AdvantageMode::one_only:
        return (a > 0).to(a.scalar_type());
      case AdvantageMode::binary:
        return a.sign();
    }
    return a;
  }
};

/// Negative-aware fine-tuning, as its published code computes it (DiffusionNFT, arXiv 2509.16117).
///
/// With the implicit branches `v_plus = (1 - beta) v_old + beta v_theta` and
/// `v_minus = (1 + beta) v_old - beta v_theta`, compared in x0 and divided by their own error:
/// `loss = clip (r l_plus + (1 - r) l_minus) / beta`,
/// `l_b = mean (x0_b - x0)^2 / max(mean |x0_b - x0|, weight_floor)`. One fused operation on the
/// CPU; together with a VelocityKl that follows it in a sum, one for both.
struct Nft {
  using Velocities = Roles<Role::current, Role::old>;  ///< whose velocities it needs
  using Points = ForwardProcess;                       ///< where it needs them
  static constexpr std::string_view name = "nft";      ///< under which it is reported

  double beta = 1;              ///< above 0; 1 or 0.1 as published
  Optimality optimality = {};   ///< the map from advantages to r
  double weight_floor = 1e-5;   ///< least denominator of the adaptive weight, above 0
  bool negative_branch = true;  ///< false: without it, an ablation
  /// Leaves out groups whose samples were all as good as each other: they say nothing of what to
  /// change, and cost as much as the others.
  bool informative_only = false;

  /// r of each sample, see Optimality.
  Tensor signal(const Scores& scores) const { return optimality(scores.advantage); }
  /// The samples that are trained on, bool [N]; undefined for all.
  Tensor keep(const Scores& scores) const { return informative(scores, informative_only); }

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& r, Statistics& statistics) const {
    return fused(batch, r, {}, 0, statistics);
  }

  /// `loss + weight kl` in one operation.
  template <class Batch>
  Tensor loss_with(const VelocityKl&, double weight, const Batch& batch, const Tensor& r,
                   Statistics& statistics) const {
    return fused(batch, r, velocity<Role::reference>(batch), weight, statistics);
  }

 private:
  template <class Batch>
  Tensor fused(const Batch& batch, const Tensor& r, const Tensor& v_ref, double kl_weight,
               Statistics& statistics) const {
    expects(beta > 0, "beta", "above 0", beta);
    expects(weight_floor > 0, "weight_floor", "above 0", weight_floor);
    const NftTerms terms =
        adaptive_nft_loss({velocity<Role::current>(batch), velocity<Role::old>(batch), v_ref,
                           batch.x0, batch.eps, batch.t, r},
                          {beta, kl_weight, negative_branch}, {optimality.clip, weight_floor});
    statistics.add(name, terms.policy);
    if (v_ref.defined()) {
      statistics.add(VelocityKl::name, terms.kl);
      detail::add_by_time(statistics, batch, VelocityKl::name, terms.kl);
    }
    return terms.total;
  }
};

/// Weights w(t) of the paper's form.
namespace time_weight {
/// `w(t) = 1`.
inline Tensor one(const Tensor& t) { return at::ones_like(t); }
/// `w(t) = t`.
inline Tensor t(const Tensor& t) { return t; }
/// `w(t) = 1 - t`: collapses in the paper's ablation.
inline Tensor one_minus_t(const Tensor& t) { return 1 - t; }
}  // namespace time_weight

/// Negative-aware fine-tuning, as the paper writes it (DiffusionNFT, arXiv 2509.16117, equation 5).
///
/// `loss = w(t) [r mean (v_plus - v)^2 + (1 - r) mean (v_minus - v)^2]`. Its minimiser is
/// `v_old + (2 / beta) Delta`.
struct PaperNft {
  using Velocities = Roles<Role::current, Role::old>;  ///< whose velocities it needs
  using Points = ForwardProcess;                       ///< where it needs them
  static constexpr std::string_view name = "nft";      ///< under which it is reported

  double beta = 1;  ///< above 0
  /// w(t): [B] to [B], at least 0
  std::function<Tensor(const Tensor& t)> weight = time_weight::one;
  Optimality optimality = {.clip = 1};  ///< the map from advantages to r
  bool negative_branch = true;          ///< false: without it, an ablation
  bool informative_only = false;        ///< see Nft

  /// r of each sample, see Optimality.
  Tensor signal(const Scores& scores) const { return optimality(scores.advantage); }
  /// The samples that are trained on, bool [N]; undefined for all.
  Tensor keep(const Scores& scores) const { return informative(scores, informative_only); }

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& r, Statistics&) const {
    expects(beta > 0, "beta", "above 0", beta);
    const Tensor w = weight(batch.t);
    expects_per_sample(w, batch.x0, "weight");
    return weighted_nft_loss({velocity<Role::current>(batch),
                              velocity<Role::old>(batch),
                              {},
                              batch.x0,
                              batch.eps,
                              batch.t,
                              r},
                             {beta, 0, negative_branch}, w)
        .total;
  }
};

}  // namespace contraflow
