#pragma once

/// @file
/// Automatic mixed precision.

#include <optional>
#include <utility>

#include <ATen/autocast_mode.h>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// Lets LibTorch compute matrix products and the like in half precision while it exists, and what
/// needs more in float32.
///
/// For a base in float32, as the published trainers keep it; a base that is in half precision
/// itself needs none.
class Autocast {
 public:
  /// @param device whose operations are meant
  /// @param dtype kHalf or kBFloat16; unset: everything in its own precision
  /// @throws Error for another dtype
  Autocast(at::DeviceType device, std::optional<at::ScalarType> dtype)
      : device_(device),
        was_enabled_(at::autocast::is_autocast_enabled(device)),
        dtype_before_(at::autocast::get_autocast_dtype(device)) {
    if (dtype && *dtype != at::kHalf && *dtype != at::kBFloat16) {
      throw Error("dtype", "Half or BFloat16", c10::toString(*dtype));
    }
    at::autocast::set_autocast_enabled(device_, dtype.has_value());
    if (dtype) at::autocast::set_autocast_dtype(device_, *dtype);
    at::autocast::increment_nesting();
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;
  ~Autocast() {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_dtype(device_, dtype_before_);
    at::autocast::set_autocast_enabled(device_, was_enabled_);
  }

  /// What is in force on a device: the dtype, or nothing.
  static std::optional<at::ScalarType> in_force(at::DeviceType device) {
    if (!at::autocast::is_autocast_enabled(device)) return std::nullopt;
    return at::autocast::get_autocast_dtype(device);
  }

 private:
  at::DeviceType device_;
  bool was_enabled_;
  at::ScalarType dtype_before_;
};

}  // namespace contraflow
