#pragma once

#include <contraflow/core/tensor.hpp>

/// @file
/// The forward process of the library and its algebra.
///
/// One convention everywhere: t in [0, 1], t = 0 is data, t = 1 is noise,
/// `x_t = (1 - t) x0 + t eps` and `v = eps - x0` (rectified flow, Liu and others, 2022).
/// In all functions x_t, x0, eps and v are [B, ...] and t is [B].

namespace contraflow {

/// Throws Error unless every time lies in [0, 1]; times on another device are not waited for.
inline void expects_times(const Tensor& t, const char* argument = "t") {
  if (!t.is_cpu()) return;
  const auto [low, high] = t.aminmax();
  const double least = low.item<double>();
  const double most = high.item<double>();
  expects(least >= 0 && most <= 1, argument, "times in [0, 1]", least < 0 ? least : most);
}

/// A clean sample noised to the time t: `x_t = (1 - t) x0 + t eps`.
/// @param x0 clean samples, floating-point [B, ...]
/// @param eps standard normal noise, as x0
/// @param t times in [0, 1], [B]
/// @return x_t, as x0
/// @throws Error if shapes or devices do not fit, or a time lies outside of [0, 1]
inline Tensor interpolate(const Tensor& x0, const Tensor& eps, const Tensor& t) {
  expects_samples(x0, "x0");
  expects_like(eps, x0, "eps");
  expects_dtype(eps, x0.scalar_type(), "eps");
  expects_per_sample(t, x0, "t");
  expects_times(t);
  return at::lerp(x0, eps, per_sample(t.to(x0.scalar_type()), x0));
}

/// The velocity of the forward process, `v = eps - x0`: what flow matching regresses to.
inline Tensor velocity_target(const Tensor& x0, const Tensor& eps) { return eps - x0; }

/// Clean samples predicted by a velocity, `x0 = x_t - t v`.
inline Tensor x0_from_velocity(const Tensor& x_t, const Tensor& v, const Tensor& t) {
  return x_t - per_sample(t, x_t) * v;
}

/// Noise predicted by a velocity, `eps = x_t + (1 - t) v`.
inline Tensor eps_from_velocity(const Tensor& x_t, const Tensor& v, const Tensor& t) {
  return x_t + (1 - per_sample(t, x_t)) * v;
}

/// The velocity of predicted clean samples, `v = (x_t - x0) / t`; t is raised to @p smallest, where
/// data say nothing about the velocity.
inline Tensor velocity_from_x0(const Tensor& x_t, const Tensor& x0, const Tensor& t,
                               double smallest = 1e-4) {
  return (x_t - x0) / per_sample(t.clamp_min(smallest), x_t);
}

/// The velocity of predicted noise, `v = (eps - x_t) / (1 - t)`; 1 - t is raised to @p smallest,
/// where noise says nothing.
inline Tensor velocity_from_eps(const Tensor& x_t, const Tensor& eps, const Tensor& t,
                                double smallest = 1e-4) {
  return (eps - x_t) / per_sample((1 - t).clamp_min(smallest), x_t);
}

}  // namespace contraflow
