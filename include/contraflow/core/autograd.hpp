#pragma once

/// @file
/// What operations with backward passes of their own share.

#include <ATen/core/grad_mode.h>

#include <contraflow/core/error.hpp>

namespace contraflow {

/// To be called in a backward pass whose gradients have no graph: a second derivative would lack
/// them, silently.
/// @throws Error if one may be asked for
inline void expects_first_derivative() {
  expects(!at::GradMode::is_enabled(), "create_graph",
          "false: this operation has first derivatives only; see ComposedOnly for layers", "true");
}

}  // namespace contraflow
