#pragma once

/// @file
/// Positions as rotations of queries and keys.

#include <cstdint>
#include <vector>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// Rotations of the tokens of a sequence, for heads of 2 P channels.
/// @par Shape
/// cos and sin float32 [N, P]
struct RotaryTable {
  Tensor cos;  ///< of the angles of neighbouring channels
  Tensor sin;  ///< likewise

  /// Those of @p count tokens from number @p first on.
  RotaryTable tokens(std::int64_t first, std::int64_t count) const {
    return {cos.narrow(0, first, count), sin.narrow(0, first, count)};
  }
};

/// Rotations for positions with several numbers, each of which turns channels of its own: the
/// angle of pair k among n channels is `position 10000^(-2 k / n)` (Su and others 2021, equation
/// 15, for several axes as in FLUX.1).
/// @param positions [N, A], any dtype
/// @param channels of a head that belong to each of the A numbers, even
/// @return angles computed in float64, cosines and sines in float32, on the device of the positions
/// @throws Error if there are not as many numbers as axes, or a number of channels is odd
inline RotaryTable rotary_table(const Tensor& positions, at::IntArrayRef channels) {
  const auto axes = std::int64_t(channels.size());
  if (!positions.defined() || positions.dim() != 2 || positions.size(1) != axes) {
    throw Error("positions", "shape [N, " + shown(axes) + "]", shape_text(positions));
  }
  std::vector<Tensor> angles;
  for (std::int64_t axis = 0; axis < axes; ++axis) {
    const std::int64_t count = channels[std::size_t(axis)];
    expects(count >= 2 && count % 2 == 0, "channels", "even numbers", count);
    const Tensor share = at::arange(0, count, 2, at::kDouble) / double(count);
    const Tensor frequency = on_device(at::pow(10000.0, -share), positions.device());
    angles.push_back(at::outer(positions.select(1, axis).to(at::kDouble), frequency));
  }
  const Tensor angle = at::cat(angles, 1);
  return {angle.cos().to(at::kFloat), angle.sin().to(at::kFloat)};
}

/// Heads with each pair of neighbouring channels (a, b) turned to (a cos - b sin, a sin + b cos),
/// in float32 or wider whatever their dtype.
/// @param x [B, N, heads, 2 P]
/// @param table of N tokens
/// @return as x
inline Tensor rotated(const Tensor& x, const RotaryTable& table) {
  const Tensor pairs = wide(x).unflatten(-1, {-1, 2});
  const Tensor a = pairs.select(-1, 0), b = pairs.select(-1, 1);
  const Tensor cos = table.cos.unsqueeze(1), sin = table.sin.unsqueeze(1);
  return at::stack({a * cos - b * sin, a * sin + b * cos}, -1).flatten(-2).to(x.scalar_type());
}

}  // namespace contraflow
