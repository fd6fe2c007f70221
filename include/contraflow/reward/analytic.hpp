#pragma once

/// @file
/// Rewards in closed form.

#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// `-|x0 - target|^2`, summed over all but the batch.
struct NegativeDistance {
  Tensor target;  ///< one sample, without the batch
  /// @par Shape
  /// @p x0 [B, ...]; result [B]
  Tensor operator()(const Tensor& x0) const {
    return -(wide(x0) - on_device(target, x0.device())).square().flatten(1).sum(1);
  }
};

/// 1 for samples within a radius of any of the centres, else 0.
struct WithinRadius {
  Tensor centres;     ///< [K, D]
  double radius = 1;  ///< above 0
  /// @par Shape
  /// @p x0 [B, D]; result [B]
  Tensor operator()(const Tensor& x0) const {
    const Tensor x = wide(x0);
    const Tensor distance = at::cdist(x, on_device(centres, x.device(), x.scalar_type()));
    return (distance.amin(1) <= radius).to(at::kFloat);
  }
};

/// `direction . x0 + offset` over all but the batch.
struct LinearReward {
  Tensor direction;   ///< one sample, without the batch
  double offset = 0;  ///< added to each score
  /// @par Shape
  /// @p x0 [B, ...]; result [B]
  Tensor operator()(const Tensor& x0) const {
    return (wide(x0) * on_device(direction, x0.device())).flatten(1).sum(1) + offset;
  }
};

}  // namespace contraflow
