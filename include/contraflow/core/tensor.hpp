#pragma once

/// @file
/// Tensors: checks of shapes, numbers of samples, arithmetic that stays wide.

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <contraflow/core/error.hpp>

#if __FINITE_MATH_ONLY__
#error "contraflow: NaN marks what failed; build without -ffast-math and -ffinite-math-only"
#endif

namespace contraflow {

/// The tensor of the library is LibTorch's.
using Tensor = at::Tensor;

/// Shape of @p x as text, such as "[4, 2]".
inline std::string shape_text(const Tensor& x) {
  return x.defined() ? shown(x.sizes()) : "nothing";
}

/// @p x in float32, or unchanged when it is float32 or wider.
///
/// Rewards, log-densities, solver arithmetic and loss reductions never run in half precision.
inline Tensor wide(const Tensor& x) {
  const auto dtype = x.scalar_type();
  return dtype == at::kFloat || dtype == at::kDouble ? x : x.to(at::kFloat);
}

/// Where the elements of @p x begin: what `x.const_data_ptr<T>()` and `x.mutable_data_ptr<T>()`
/// give.
///
/// LibTorch compiles the first of them into its library under a name that clang 18 and later do not
/// look for, so that a program which calls it does not link; `data_of<const T>(x)` does, and with T
/// not const the elements may be written. Throws Error unless @p x has elements of type T.
template <class T>
T* data_of(const Tensor& x) {
  constexpr auto dtype = c10::CppTypeToScalarType<std::remove_const_t<T>>::value;
  if (x.scalar_type() != dtype)
    throw Error("data", "dtype " + shown(dtype), shown(x.scalar_type()));
  if constexpr (std::is_const_v<T>) {
    return static_cast<T*>(x.const_data_ptr());
  } else {
    return static_cast<T*>(x.mutable_data_ptr());
  }
}

/// @p x on @p device, in its dtype or in @p dtype.
///
/// From the host to a GPU by way of pinned memory: a plain copy waits for all that the GPU has been
/// given to do.
inline Tensor on_device(const Tensor& x, const at::Device& device, at::ScalarType dtype) {
  if (!x.is_cpu() || device.is_cpu()) return x.to(device, dtype);
  // Copies to pinned memory have no derivative.
  const bool pins = !x.requires_grad() && (device.is_cuda() || device.is_privateuseone());
  if (!pins) return x.to(device, dtype);
  return x.to(dtype).contiguous().pin_memory().to(device, dtype, /*non_blocking=*/true);
}
/// The same in its own dtype.
inline Tensor on_device(const Tensor& x, const at::Device& device) {
  return on_device(x, device, x.scalar_type());
}

/// Per-sample numbers shaped to broadcast over samples.
/// @par Shape
/// @p values [B], @p like [B, ...]; result [B, 1, ...] with the rank of @p like.
inline Tensor per_sample(const Tensor& values, const Tensor& like) {
  std::vector<std::int64_t> shape(static_cast<std::size_t>(like.dim()), 1);
  shape[0] = values.size(0);
  return values.reshape(shape);
}

/// Mean over everything but the batch, in float32 or wider.
/// @par Shape
/// @p x [B, ...]; result [B].
inline Tensor mean_per_sample(const Tensor& x) { return wide(x).flatten(1).mean(1); }

/// What @p f gives for a batch, at most @p at_once samples at a time: for memory.
/// @par Shape
/// @p x [B, ...]; result [B, ...] of what @p f gives
/// @throws Error if @p at_once is below 1
template <class F>
Tensor in_parts(const Tensor& x, std::int64_t at_once, F&& f) {
  expects_at_least_one(at_once, "at_once");
  std::vector<Tensor> parts;
  for (const Tensor& part : x.split(at_once)) parts.push_back(f(part));
  return parts.size() == 1 ? parts.front() : at::cat(parts);
}

/// Throws Error unless @p x is a non-empty batch of floating-point samples [B, ...].
inline void expects_samples(const Tensor& x, const char* argument) {
  if (!x.defined() || x.dim() < 2 || x.numel() == 0) {
    throw Error(argument, "a non-empty batch of samples [B, ...]", shape_text(x));
  }
  if (!x.is_floating_point()) {
    throw Error(argument, "a floating-point tensor", shown(x.scalar_type()));
  }
}

/// Throws Error unless @p x has the shape and the device of @p like.
inline void expects_like(const Tensor& x, const Tensor& like, const char* argument) {
  if (!x.defined() || x.sizes() != like.sizes()) {
    throw Error(argument, "shape " + shape_text(like), shape_text(x));
  }
  if (x.device() != like.device()) {
    throw Error(argument, "a tensor on " + like.device().str(), x.device().str());
  }
}

/// Throws Error unless @p x has the type @p dtype.
inline void expects_dtype(const Tensor& x, at::ScalarType dtype, const char* argument) {
  if (x.scalar_type() == dtype) return;
  throw Error(argument, "dtype " + shown(dtype), shown(x.scalar_type()));
}

/// Throws Error unless @p x is int64 with numbers from 0 to @p limit - 1; numbers on another device
/// are not waited for.
/// @param x labels, tokens, numbers of prompts
/// @param limit one more than the largest
/// @param argument what errors call @p x
/// @param expected what errors say that was expected
inline void expects_below(const Tensor& x, std::int64_t limit, const char* argument,
                          const std::string& expected) {
  expects_dtype(x, at::kLong, argument);
  if (x.numel() == 0 || !x.is_cpu()) return;
  const auto [low, high] = x.aminmax();
  const auto least = low.item<std::int64_t>(), most = high.item<std::int64_t>();
  if (least >= 0 && most < limit) return;
  throw Error(argument, expected, shown(least < 0 ? least : most));
}

/// Throws Error unless @p x is [B] with the batch size and the device of @p like.
inline void expects_per_sample(const Tensor& x, const Tensor& like, const char* argument) {
  if (!x.defined() || x.dim() != 1 || x.size(0) != like.size(0)) {
    throw Error(argument, "one value a sample, shape [" + shown(like.size(0)) + "]", shape_text(x));
  }
  if (x.device() != like.device()) {
    throw Error(argument, "a tensor on " + like.device().str(), x.device().str());
  }
}

}  // namespace contraflow
