#pragma once

/// @file
/// LibTorch's threads for loops that are not LibTorch's.

#include <cstdint>
#include <utility>

#include <ATen/Parallel.h>

namespace contraflow {

/// LibTorch's threads as the parallel loop of a kernel, see kernels::SerialLoop. Inside of a
/// parallel region it runs on the calling thread.
struct TorchLoop {
  std::int64_t grain = 1;  ///< the least that is worth a thread

  /// How many it uses at most.
  static std::int64_t threads() { return at::get_num_threads(); }
  /// The loop.
  template <class Body>
  void operator()(std::int64_t count, Body&& body) const {
    at::parallel_for(0, count, grain, std::forward<Body>(body));
  }
};

}  // namespace contraflow
