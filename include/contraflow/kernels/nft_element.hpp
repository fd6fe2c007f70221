#pragma once

#include <cstdint>
#include <type_traits>

#include <contraflow/core/host_device.hpp>

/// @file
/// What the host and the CUDA form of the fused NFT loss share: arguments, the arithmetic of one
/// element, and the two ways to weight a sample. C++17, so that nvcc compiles it.
///
/// With v = eps - x0, w = v_old - v and d = v_theta - v_old, the implicit branches of NFT
/// (arXiv 2509.16117) differ from the target velocity by
/// \f[ v_+ - v = w + \beta d, \qquad v_- - v = w - \beta d, \f]
/// and since x0_b = x_t - t v_b their clean predictions differ from x0 by -t times that. Neither
/// x_t nor a branch is ever stored.

namespace contraflow::kernels {

/// Type in which elements of velocity type @p V are computed: double for double, float for the
/// rest (16-bit types are widened through `static_cast<float>`).
template <class V>
using ComputeType = std::conditional_t<std::is_same_v<V, double>, double, float>;

/// The arrays of one NFT loss: contiguous, sample after sample.
///
/// @tparam V element type of the velocities and of the gradient: float, double, or a 16-bit type
///   that converts to and from float
/// @tparam X element type of the samples and of the noise: the same choice
/// @par Shape
/// v_theta, v_old, v_ref, x0, eps, gradient: [batch, elements]; t, r: [batch]
template <class V, class X>
struct NftLossArrays {
  const V* v_theta = nullptr;  ///< velocity being trained
  const V* v_old = nullptr;    ///< velocity that collected the samples
  const V* v_ref = nullptr;    ///< frozen velocity of the KL term; null: no KL term
  const X* x0 = nullptr;       ///< collected samples
  const X* eps = nullptr;      ///< noise mixed into them
  const double* t = nullptr;   ///< times in [0, 1]
  const double* r = nullptr;   ///< optimality in [0, 1]
  V* gradient = nullptr;       ///< gradient of the total by v_theta; null: value only
  std::int64_t batch = 0;      ///< number of samples
  std::int64_t elements = 0;   ///< of one sample
};

/// Numbers of one NFT loss.
struct NftLossSettings {
  double beta = 1.0;       ///< distance of the implicit branches from v_old, > 0
  double kl_weight = 0.0;  ///< weight of mean (v_theta - v_ref)^2
  double upstream = 1.0;   ///< factor of the gradient alone: what arrives from behind the loss
  double negative_weight = 1.0;  ///< of the negative branch; 0 is the ablation without it
};

/// Where the terms of each sample go; double whatever the arrays are.
/// @par Shape
/// each: [batch]
struct NftLossOutputs {
  double* positive = nullptr;  ///< term of the positive branch, as its weighting states it
  double* negative = nullptr;  ///< term of the negative branch
  double* kl = nullptr;        ///< mean (v_theta - v_ref)^2; may be null where v_ref is
};

/// The loss in total.
struct NftLossValue {
  double policy = 0.0;  ///< mean over the batch of the weighted branches
  double kl = 0.0;      ///< mean over the batch, before its weight
  double total = 0.0;   ///< policy + kl_weight * kl
};

/// A branch's term of one sample and its slope by the branch's mean square.
struct NftBranch {
  double value;  ///< of the term
  double slope;  ///< by the branch's mean square
};

/// Weighting of the published code: each branch is compared in x0 and divided by its own error.
///
/// \f[ \ell_b = \frac{\overline{(x_{0,b} - x_0)^2}}{\max(\overline{|x_{0,b} - x_0|}, floor)} \f]
/// \f[ L = scale \, (r \ell_+ + (1 - r) \ell_-) / \beta \f]
/// No gradient passes through the denominator. The published scale is the clip of the advantages.
struct AdaptiveWeighting {
  static constexpr bool uses_absolute = true;  ///< whether it asks for mean magnitudes

  double scale = 5.0;          ///< of the whole loss
  double weight_floor = 1e-5;  ///< least denominator, above 0

  /// The term of a branch from the means of its differences over a sample.
  CONTRAFLOW_HOST_DEVICE NftBranch branch(double mean_absolute, double mean_square,
                                          double t) const {
    const double error = t * mean_absolute;
    const double weight = 1.0 / (error > weight_floor ? error : weight_floor);
    return {t * t * mean_square * weight, t * t * weight};
  }
  /// The factor of both terms of a sample.
  CONTRAFLOW_HOST_DEVICE double factor(std::int64_t /*sample*/, double beta) const {
    return scale / beta;
  }
};

/// Weighting of the paper: each branch is compared in velocity, under a weight of the sample.
///
/// \f[ L = w \, (r \, \overline{(v_+ - v)^2} + (1 - r) \, \overline{(v_- - v)^2}) \f]
struct FixedWeighting {
  static constexpr bool uses_absolute = false;  ///< whether it asks for mean magnitudes

  const double* weight = nullptr;  ///< [batch]; null: ones

  /// The term of a branch from the means of its differences over a sample.
  CONTRAFLOW_HOST_DEVICE NftBranch branch(double /*mean_absolute*/, double mean_square,
                                          double /*t*/) const {
    return {mean_square, 1.0};
  }
  /// The factor of both terms of a sample.
  CONTRAFLOW_HOST_DEVICE double factor(std::int64_t sample, double /*beta*/) const {
    return weight == nullptr ? 1.0 : weight[sample];
  }
};

/// Sums over elements from which a sample's terms are made.
template <class T>
struct NftSums {
  T plus_absolute{};   ///< of |v_plus - v|; only if the weighting asks for it
  T plus_square{};     ///< of (v_plus - v)^2
  T minus_absolute{};  ///< of |v_minus - v|; only if the weighting asks for it
  T minus_square{};    ///< of (v_minus - v)^2
  T kl_square{};       ///< of (v_theta - v_ref)^2
};

/// Factors of the gradient, which is linear in its three differences.
template <class T>
struct NftSlopes {
  T w;   ///< of v_old - v
  T d;   ///< of v_theta - v_old
  T kl;  ///< of v_theta - v_ref
};

/// Terms of one sample and the factors of its gradient.
struct NftSample {
  double positive;           ///< term of the positive branch
  double negative;           ///< term of the negative branch
  double kl;                 ///< mean (v_theta - v_ref)^2
  NftSlopes<double> slopes;  ///< factors of the gradient
};

/// Differences of one element.
template <class T>
struct NftDifferences {
  T w;  ///< v_old - v
  T d;  ///< v_theta - v_old
};

/// Differences of one element; T is a number or a pack of numbers.
template <class T>
CONTRAFLOW_HOST_DEVICE NftDifferences<T> nft_differences(const T& v_theta, const T& v_old,
                                                         const T& x0, const T& eps) {
  return {v_old - (eps - x0), v_theta - v_old};
}

/// Magnitude of a number or of each number of a pack; NaN stays NaN.
template <class T>
CONTRAFLOW_HOST_DEVICE T nft_magnitude(const T& x) {
  return x > -x ? x : -x;
}

/// Adds one element's parts of both branches.
/// @tparam with_absolute whether the weighting asks for the sums of magnitudes
template <bool with_absolute, class T, class S>
CONTRAFLOW_HOST_DEVICE void nft_accumulate(NftSums<T>& sums, const NftDifferences<T>& differences,
                                           const S& beta) {
  const T step = beta * differences.d;
  const T plus = differences.w + step;
  const T minus = differences.w - step;
  sums.plus_square += plus * plus;
  sums.minus_square += minus * minus;
  if (with_absolute) {
    sums.plus_absolute += nft_magnitude(plus);
    sums.minus_absolute += nft_magnitude(minus);
  }
}

/// Gradient of one element without its KL part.
template <class T, class S>
CONTRAFLOW_HOST_DEVICE T nft_slope(const NftDifferences<T>& differences,
                                   const NftSlopes<S>& slopes) {
  return slopes.w * differences.w + slopes.d * differences.d;
}

/// Terms and gradient factors of a sample from its sums.
template <class Weighting>
CONTRAFLOW_HOST_DEVICE NftSample nft_sample(const NftSums<double>& sums, const Weighting& weighting,
                                            const NftLossSettings& settings, std::int64_t sample,
                                            std::int64_t batch, std::int64_t elements, double t,
                                            double r) {
  const double n = static_cast<double>(elements);
  const NftBranch positive = weighting.branch(sums.plus_absolute / n, sums.plus_square / n, t);
  const NftBranch negative = weighting.branch(sums.minus_absolute / n, sums.minus_square / n, t);
  const double unit = 2.0 * settings.upstream / (static_cast<double>(batch) * n);
  const double common = unit * settings.beta * weighting.factor(sample, settings.beta);
  const double plus = common * r * positive.slope;
  const double minus = common * settings.negative_weight * (1.0 - r) * negative.slope;
  return {positive.value,
          negative.value,
          sums.kl_square / n,
          {plus - minus, settings.beta * (plus + minus), unit * settings.kl_weight}};
}

/// Total of the terms of all samples, added in their order.
/// @param outputs the samples' terms; those of the KL are read only if @p with_kl
/// @param r optimality in [0, 1], [batch]
/// @param batch number of samples
/// @param weighting AdaptiveWeighting, FixedWeighting or one like them
/// @param settings beta and weights
/// @param with_kl whether there is a KL term
template <class Weighting>
CONTRAFLOW_HOST_DEVICE NftLossValue nft_total(const NftLossOutputs& outputs, const double* r,
                                              std::int64_t batch, const Weighting& weighting,
                                              const NftLossSettings& settings, bool with_kl) {
  NftLossValue value;
  for (std::int64_t i = 0; i < batch; ++i) {
    value.policy += weighting.factor(i, settings.beta) *
                    (r[i] * outputs.positive[i] +
                     settings.negative_weight * (1.0 - r[i]) * outputs.negative[i]);
    if (with_kl) value.kl += outputs.kl[i];
  }
  value.policy /= static_cast<double>(batch);
  value.kl /= static_cast<double>(batch);
  value.total = value.policy + (with_kl ? settings.kl_weight * value.kl : 0.0);
  return value;
}

}  // namespace contraflow::kernels
