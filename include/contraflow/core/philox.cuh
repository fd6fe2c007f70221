#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include <contraflow/core/philox_rows.hpp>

/// @file
/// Rows of random numbers on a CUDA device, C++17: the same bits as on the host. No LibTorch.

namespace contraflow::philox {

namespace detail {

inline constexpr int cuda_threads = 256;
inline constexpr std::int64_t cuda_max_blocks = 1 << 20;

// A block of four numbers a thread.
template <class Distribution, class Sink>
__global__ void fill_rows_kernel(Draw draw, std::int64_t items, std::int64_t columns, Sink sink) {
  const std::int64_t all = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < items; i += all) {
    fill_block<Distribution>(draw, i, columns, sink);
  }
}

}  // namespace detail

/// Hands every number of a draw to @p sink on a device; the bits are those of fill_rows.
/// @tparam Distribution NormalNumbers or UniformNumbers
/// @param draw which numbers; its names, if there are any, on the device
/// @param rows number of rows, at least 0
/// @param columns numbers in a row, from 0 to 2^34
/// @param sink Written or one like it, with arrays of the device
/// @param stream on which it runs; it does not wait
/// @return what the launch reports
template <class Distribution, class Sink>
cudaError_t fill_rows_cuda(const Draw& draw, std::int64_t rows, std::int64_t columns,
                           const Sink& sink, cudaStream_t stream = nullptr) {
  const std::int64_t items = rows * blocks_of(columns);
  if (items <= 0) return cudaSuccess;
  const std::int64_t needed = (items + detail::cuda_threads - 1) / detail::cuda_threads;
  const auto blocks =
      static_cast<unsigned>(needed < detail::cuda_max_blocks ? needed : detail::cuda_max_blocks);
  detail::fill_rows_kernel<Distribution>
      <<<blocks, detail::cuda_threads, 0, stream>>>(draw, items, columns, sink);
  return cudaGetLastError();
}

}  // namespace contraflow::philox
