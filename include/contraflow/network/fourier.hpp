#pragma once

/// @file
/// Fourier features of time beside a state: one kernel on the CPU in float32, LibTorch's operations
/// elsewhere.

#include <cmath>
#include <cstdint>

#include <contraflow/kernels/time_features.hpp>
#include <contraflow/network/fused.hpp>

namespace contraflow {

namespace detail {

/// Whether these are the frequencies that the kernel knows; a network in half precision rounds
/// them.
inline bool are_kernel_frequencies(const Tensor& frequencies) {
  if (!takes_kernels(frequencies) || !frequencies.is_contiguous()) return false;
  if (frequencies.numel() > kernels::most_frequencies) return false;
  const auto* values = data_of<const float>(frequencies);
  for (std::int64_t k = 0; k < frequencies.numel(); ++k) {
    if (values[k] != std::ldexp(1.57079632679F, int(k))) return false;
  }
  return true;
}

/// A rule that asks for no gradient mode: what is computed again has the bits of the first time.
inline bool is_fused_fourier(const Tensor& x, const Tensor& t, const Tensor& frequencies) {
  return takes_kernels(x) && takes_kernels(t) && x.dim() == 2 && t.dim() == 1 &&
         t.size(0) == x.size(0) && !x.requires_grad() && !t.requires_grad() &&
         are_kernel_frequencies(frequencies);
}

}  // namespace detail

/// `[x | sin(f_k t) | cos(f_k t)]`: what a small flow is given.
/// @param x [B, D]
/// @param t times in [0, 1], [B]
/// @param frequencies f_k, [K], in the dtype of x; a kernel where `f_k = 2^k pi/2` for k from 0
/// @return [B, D + 2 K]
inline Tensor with_fourier_features(const Tensor& x, const Tensor& t, const Tensor& frequencies) {
  if (!detail::is_fused_fourier(x, t, frequencies)) {
    const Tensor phase = at::outer(t.to(frequencies.scalar_type()), frequencies);
    return at::cat({x, phase.sin(), phase.cos()}, 1);
  }
  const std::int64_t count = frequencies.numel(), dimension = x.size(1);
  const Tensor plain = x.contiguous(), times = t.contiguous();
  Tensor out = at::empty({x.size(0), dimension + 2 * count}, x.options().requires_grad(false));
  kernels::time_features(x.size(0), dimension, count, data_of<const float>(plain),
                         data_of<const float>(times), out.mutable_data_ptr<float>());
  return out;
}

}  // namespace contraflow
