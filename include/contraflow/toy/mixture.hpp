#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include <contraflow/core/random.hpp>

/// @file
/// Gaussian mixtures: data for toy tasks, and every quantity of the theory in closed form.

namespace contraflow::toy {

/// A mixture of isotropic Gaussians.
class Mixture {
 public:
  /// @param means [K, D]
  /// @param std of every component, above 0
  /// @param weights [K], at least 0, summing to 1; undefined: equal
  explicit Mixture(Tensor means, double std, Tensor weights = {})
      : means_(std::move(means)), std_(std), weights_(std::move(weights)) {
    if (!means_.defined() || means_.dim() != 2 || means_.numel() == 0) {
      throw Error("means", "[K, D]", shape_text(means_));
    }
    expects(std > 0, "std", "above 0", std);
    if (!weights_.defined()) weights_ = at::full({means_.size(0)}, 1.0 / double(means_.size(0)));
    if (weights_.sizes() != at::IntArrayRef({means_.size(0)})) {
      throw Error("weights", "one a mean, shape [" + shown(means_.size(0)) + "]",
                  shape_text(weights_));
    }
    weights_ = weights_.to(means_.options());
  }

  /// [K, D].
  const Tensor& means() const { return means_; }
  /// Of every component.
  double std() const { return std_; }
  /// [K], summing to 1.
  const Tensor& weights() const { return weights_; }
  /// D.
  std::int64_t dimension() const { return means_.size(1); }

  /// @p count samples [count, D].
  Tensor sample(std::int64_t count, Generator& generator) const {
    return means_.index_select(0, components(count, generator)) +
           std_ * normal({count, dimension()}, generator, means_.options());
  }

  /// The samples of `data(count, generator)`, for pretrain.
  Tensor operator()(std::int64_t count, Generator& generator) const {
    return sample(count, generator);
  }

  /// Probability of each component given x_t: [B, K].
  /// @par Shape
  /// @p x_t [B, D], @p t [B]
  Tensor posterior(const Tensor& x_t, const Tensor& t) const {
    // The part of the distances that all components share cancels: no [B, K, D] is made.
    const Tensor data = (1 - t).unsqueeze(1);
    const Tensor nearness =
        data * at::matmul(x_t, means_.t()) - data.square() * means_.square().sum(1) / 2;
    return (weights_.log() + nearness / variance(t).unsqueeze(1)).softmax(1);
  }

  /// The velocity of the flow to this mixture, `E[eps - x0 | x_t]`: [B, D].
  /// @par Shape
  /// @p x_t [B, D], @p t [B] in (0, 1]
  Tensor velocity(const Tensor& x_t, const Tensor& t) const {
    const Tensor mixed = at::matmul(posterior(x_t, t), means_);
    const Tensor time = t.unsqueeze(1);
    const Tensor slope = (time - (1 - time) * std_ * std_) / variance(t).unsqueeze(1);
    return slope * (x_t - (1 - time) * mixed) - mixed;
  }

  /// Density of x_t, up to a factor that depends on t alone: [B].
  Tensor density(const Tensor& x_t, const Tensor& t) const {
    const Tensor mean = (1 - t).view({-1, 1, 1}) * means_;
    const Tensor distance = (x_t.unsqueeze(1) - mean).square().sum(2);
    return (weights_ * at::exp(-distance / (2 * variance(t).unsqueeze(1)))).sum(1);
  }

 private:
  // Where a uniform number falls among the sums of the weights: an index for each sample.
  Tensor components(std::int64_t count, Generator& generator) const {
    const Tensor sums = weights_.to(at::kDouble).cumsum(0);
    const Tensor place = uniform({count}, generator).to(sums.options()) * sums[-1];
    return at::searchsorted(sums, place, /*out_int32=*/false, /*right=*/true)
        .clamp_max(sums.size(0) - 1);
  }

  Tensor variance(const Tensor& t) const { return (1 - t).square() * std_ * std_ + t.square(); }

  Tensor means_;
  double std_;
  Tensor weights_;
};

/// @p modes Gaussians on a circle: the ring task has 8 at radius 2 with std 0.15.
inline Mixture ring(std::int64_t modes = 8, double radius = 2, double std = 0.15) {
  expects(modes >= 1, "modes", "at least 1", modes);
  const Tensor angle = at::arange(modes, at::kFloat) * (2 * M_PI / double(modes));
  return Mixture(at::stack({angle.cos(), angle.sin()}, 1) * radius, std);
}

}  // namespace contraflow::toy
