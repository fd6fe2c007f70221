#pragma once

/// @file
/// Loops on the threads of torch.

#include <cstdint>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ThreadLocalState.h>
#include <ATen/ops/empty.h>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// Calls `body(begin, end)` on ranges that together cover [0, count) once, one range for each of
/// torch's threads, and returns when all are done.
///
/// at::parallel_for is a template that runs serially in a program that is compiled without OpenMP,
/// and compiling with another OpenMP than torch's makes two pools of threads. This uses the loop
/// that is compiled within torch. Within @p body operations use one thread, and see the guards of
/// the caller; within a parallel region it runs serially. An exception of @p body is thrown again.
/// @param count at least 0
/// @param body called from several threads at once
/// @param grain at least 1, the least that is worth a thread
template <class Body>
void parallel_for(std::int64_t count, Body&& body, std::int64_t grain = 1) {
  if (count <= 0) return;
  if (count <= grain || at::get_num_threads() == 1 || at::in_parallel_region()) {
    body(std::int64_t{0}, count);
    return;
  }
  const at::ThreadLocalState state;
  at::Tensor marks = at::empty({count}, at::kByte);
  const auto* first = static_cast<const char*>(marks.const_data_ptr());
  at::TensorIterator loop = at::TensorIterator::nullary_op(marks);
  loop.for_each(
      [&](char** data, const std::int64_t*, std::int64_t size, std::int64_t) {
        const at::ThreadLocalStateGuard guard(state);
        const std::int64_t begin = data[0] - first;
        body(begin, begin + size);
      },
      grain);
}

/// torch's threads as the parallel loop that kernels ask for, see kernels::SerialLoop.
struct TorchLoop {
  std::int64_t grain = 1;  ///< the least that is worth a thread, at least 1

  /// How many threads it uses at most.
  static std::int64_t threads() { return at::get_num_threads(); }
  /// Calls @p body on ranges of [0, count).
  template <class Body>
  void operator()(std::int64_t count, Body&& body) const {
    parallel_for(count, std::forward<Body>(body), grain);
  }
};

}  // namespace contraflow
