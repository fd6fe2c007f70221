#pragma once

/// @file
/// Fourier features of time beside a state: one kernel on the CPU in float32, LibTorch's operations
/// elsewhere.

#include <cstdint>

#include <contraflow/kernels/time_features.hpp>
#include <contraflow/network/fused.hpp>

namespace contraflow {

/// `[x | sin(f_k t) | cos(f_k t)]`: what a small flow is given.
/// @param x [B, D]
/// @param t times in [0, 1], [B]
/// @param frequencies `f_k = 2^k pi/2` for k from 0, [K], in the dtype of x
/// @return [B, D + 2 K]
inline Tensor with_fourier_features(const Tensor& x, const Tensor& t, const Tensor& frequencies) {
  const std::int64_t count = frequencies.numel(), dimension = x.size(1);
  const bool is_fused = detail::takes_kernels(x) && detail::takes_kernels(t) &&
                        count <= kernels::most_frequencies && !detail::needs_gradient({x, t});
  if (!is_fused) {
    const Tensor phase = at::outer(t.to(frequencies.scalar_type()), frequencies);
    return at::cat({x, phase.sin(), phase.cos()}, 1);
  }
  const Tensor plain = x.contiguous(), times = t.contiguous();
  Tensor out = at::empty({x.size(0), dimension + 2 * count}, x.options().requires_grad(false));
  kernels::time_features(x.size(0), dimension, count, data_of<const float>(plain),
                         data_of<const float>(times), out.mutable_data_ptr<float>());
  return out;
}

}  // namespace contraflow
