#pragma once

/// @file
/// Pieces of transformers whose normalisations depend on time and condition, and positions in
/// images.

#include <cmath>
#include <memory>
#include <vector>

#include <contraflow/network/layers.hpp>

namespace contraflow {

namespace detail {

inline Tensor normalised_layer(const Tensor& x) {
  return at::layer_norm(x, {x.size(-1)}, {}, {}, 1e-6);
}
/// `LN(x) (1 + scale) + shift`, with a shift and a scale [B, D] a sample.
inline Tensor modulated(const Tensor& normalised, const Tensor& shift, const Tensor& scale) {
  return at::addcmul(shift.unsqueeze(1), normalised, scale.unsqueeze(1) + 1);
}
/// `x + gate y`, with a gate [B, D] a sample.
inline Tensor gated(const Tensor& x, const Tensor& gate, const Tensor& y) {
  return at::addcmul(x, gate.unsqueeze(1), y);
}

/// The numbers of a block that depend on time and prompt: a linear layer, cut in chunks.
class Modulation : public torch::nn::Module {
 public:
  Modulation(std::int64_t width, std::int64_t chunks)
      : chunks_(chunks), linear_(place<LoraLinear>(*this, "linear", width, chunks * width)) {}
  std::vector<Tensor> forward(const Tensor& silu_of_embedding) const {
    return linear_->forward(silu_of_embedding).chunk(chunks_, 1);
  }

 private:
  std::int64_t chunks_;
  std::shared_ptr<LoraLinear> linear_;
};

}  // namespace detail

/// Positions in a square of tokens: sine and cosine of the column in the first half of the
/// channels, of the row in the second (Peebles and Xie 2023, as published).
/// @param side of the square, in tokens
/// @param spacing coordinates are indices over this
/// @param width channels of a token, a multiple of 4
/// @return float32 [1, side^2, width], computed in float64
inline Tensor position_grid(std::int64_t side, double spacing, std::int64_t width) {
  const std::int64_t quarter = width / 4;
  // The coordinate is rounded to float32 before its angles are taken, as published.
  const Tensor axis = (at::arange(side, at::kFloat) / spacing).to(at::kDouble);
  const Tensor omega = at::pow(10000.0, -at::arange(quarter, at::kDouble) / double(quarter));
  const Tensor angle = at::outer(axis, omega);
  const Tensor one = at::cat({angle.sin(), angle.cos()}, 1).to(at::kFloat);
  const Tensor columns = one.unsqueeze(0).expand({side, side, 2 * quarter});
  const Tensor rows = one.unsqueeze(1).expand({side, side, 2 * quarter});
  return at::cat({columns, rows}, 2).reshape({1, side * side, 4 * quarter});
}

}  // namespace contraflow
