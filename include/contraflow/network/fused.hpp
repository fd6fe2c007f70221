#pragma once

/// @file
/// When the layers of a network are fused kernels, and when operations of LibTorch.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

#include <ATen/TracerMode.h>
#include <ATen/autocast_mode.h>

#include <contraflow/core/parallel.hpp>
#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// Keeps the layers of this thread to operations of LibTorch while it exists.
///
/// On the CPU in float32, linear layers, normalisation with modulation, activations, gated
/// residuals and the attention of short sequences are kernels of the library's. They compute the
/// same to rounding; this is for whoever wants to compare them, or needs what they lack: second
/// derivatives, which they refuse. Tensors with forward-mode derivatives are left to LibTorch in
/// any case.
class ComposedOnly {
 public:
  /// From here on.
  /// @param in_force false lifts one that is in force
  explicit ComposedOnly(bool in_force = true) : before_(std::exchange(in_force_, in_force)) {}
  ComposedOnly(const ComposedOnly&) = delete;
  ComposedOnly& operator=(const ComposedOnly&) = delete;
  ~ComposedOnly() { in_force_ = before_; }

  /// Whether there is one on this thread.
  static bool in_force() { return in_force_; }

 private:
  static inline thread_local bool in_force_ = false;
  bool before_;
};

namespace detail {

/// Whether the kernels take @p x: float32 on the CPU, and nothing that wants otherwise.
inline bool takes_kernels(const Tensor& x) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.layout() == at::kStrided &&
         x.numel() > 0 && x.has_storage() && !ComposedOnly::in_force() &&
         !at::tracer::impl::is_dispatch_enabled() && !at::autocast::is_autocast_enabled(at::kCPU) &&
         !x._fw_grad(/*level=*/0).defined();
}

/// Whether a backward pass may come; undefined tensors do not count.
inline bool needs_gradient(std::initializer_list<Tensor> inputs) {
  if (!at::GradMode::is_enabled()) return false;
  for (const Tensor& x : inputs) {
    if (x.defined() && x.requires_grad()) return true;
  }
  return false;
}

inline const float* numbers_of(const Tensor& x) {
  return x.defined() ? data_of<const float>(x) : nullptr;
}

inline float* room_of(Tensor& x) { return x.defined() ? x.mutable_data_ptr<float>() : nullptr; }

/// Autograd takes defined tensors only: those, and which they are.
struct DefinedTensors {
  std::vector<Tensor> tensors;
  std::vector<std::int64_t> places;  ///< among all

  explicit DefinedTensors(const std::vector<Tensor>& all) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!all[i].defined()) continue;
      tensors.push_back(all[i]);
      places.push_back(std::int64_t(i));
    }
  }
};
inline std::vector<Tensor> spread(at::TensorList tensors, at::IntArrayRef places,
                                  std::size_t count) {
  std::vector<Tensor> all(count);
  for (std::size_t i = 0; i < tensors.size(); ++i) all[std::size_t(places[i])] = tensors[i];
  return all;
}

/// A loop over rows of @p size elements that gives no thread less than it is woken for.
inline TorchLoop rows_loop(std::int64_t size) {
  constexpr std::int64_t least = 16384;
  return {std::max<std::int64_t>(1, least / std::max<std::int64_t>(1, size))};
}

}  // namespace detail

}  // namespace contraflow
