#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include <contraflow/kernels/nft_element.hpp>

/// @file
/// CUDA form of the fused NFT loss, C++17. Same arithmetic an element as the host form.

namespace contraflow::kernels {

namespace detail {

// A chunk is what one block sums. Its size, not the launch, fixes the order of the additions.
inline constexpr int cuda_threads = 256;
// Small enough that the samples which fit the L2 cache are several chunks for every multiprocessor.
inline constexpr std::int64_t cuda_chunk = 16 * cuda_threads;
inline constexpr std::int64_t cuda_max_blocks = 1 << 20;

template <class V, class X>
struct CudaElement {
  using T = ComputeType<V>;

  NftDifferences<T> differences;
  T deviation;

  __device__ CudaElement(const NftLossArrays<V, X>& arrays, std::int64_t i)
      : differences(nft_differences(static_cast<T>(arrays.v_theta[i]),
                                    static_cast<T>(arrays.v_old[i]), static_cast<T>(arrays.x0[i]),
                                    static_cast<T>(arrays.eps[i]))),
        deviation(arrays.v_ref == nullptr
                      ? T(0)
                      : static_cast<T>(arrays.v_theta[i]) - static_cast<T>(arrays.v_ref[i])) {}
};

// Sums over the threads of a block, in a fixed order; the result is for thread 0.
inline __device__ NftSums<double> sum_over_block(const NftSums<double>& mine) {
  __shared__ double shared[5][cuda_threads];
  const int thread = static_cast<int>(threadIdx.x);
  shared[0][thread] = mine.plus_absolute;
  shared[1][thread] = mine.plus_square;
  shared[2][thread] = mine.minus_absolute;
  shared[3][thread] = mine.minus_square;
  shared[4][thread] = mine.kl_square;
  for (int half = cuda_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) {
      for (int term = 0; term < 5; ++term) shared[term][thread] += shared[term][thread + half];
    }
  }
  __syncthreads();
  NftSums<double> sums;
  sums.plus_absolute = shared[0][0];
  sums.plus_square = shared[1][0];
  sums.minus_absolute = shared[2][0];
  sums.minus_square = shared[3][0];
  sums.kl_square = shared[4][0];
  __syncthreads();
  return sums;
}

template <class Weighting, class V, class X>
__global__ void nft_sums_kernel(NftLossArrays<V, X> arrays, NftLossSettings settings,
                                std::int64_t first_sample, std::int64_t items, std::int64_t chunks,
                                NftSums<double>* parts) {
  using T = ComputeType<V>;
  const T beta = static_cast<T>(settings.beta);
  for (std::int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const std::int64_t sample = first_sample + item / chunks;
    const std::int64_t begin = item % chunks * cuda_chunk;
    const std::int64_t end =
        begin + cuda_chunk < arrays.elements ? begin + cuda_chunk : arrays.elements;
    const std::int64_t start = sample * arrays.elements;
    NftSums<T> sums;
    for (std::int64_t i = begin + threadIdx.x; i < end; i += cuda_threads) {
      const CudaElement<V, X> element(arrays, start + i);
      nft_accumulate<Weighting::uses_absolute>(sums, element.differences, beta);
      sums.kl_square += element.deviation * element.deviation;
    }
    NftSums<double> mine;
    mine.plus_absolute = sums.plus_absolute;
    mine.plus_square = sums.plus_square;
    mine.minus_absolute = sums.minus_absolute;
    mine.minus_square = sums.minus_square;
    mine.kl_square = sums.kl_square;
    const NftSums<double> total = sum_over_block(mine);
    if (threadIdx.x == 0) parts[sample * chunks + item % chunks] = total;
  }
}

// Sums of a sample out of those of its chunks, by all threads of a block; the result is for thread
// 0.
inline __device__ NftSums<double> sum_of_parts(const NftSums<double>* parts, std::int64_t chunks) {
  NftSums<double> mine;
  for (std::int64_t c = threadIdx.x; c < chunks; c += cuda_threads) {
    mine.plus_absolute += parts[c].plus_absolute;
    mine.plus_square += parts[c].plus_square;
    mine.minus_absolute += parts[c].minus_absolute;
    mine.minus_square += parts[c].minus_square;
    mine.kl_square += parts[c].kl_square;
  }
  return sum_over_block(mine);
}

template <class Weighting, class V, class X>
__global__ void nft_gradient_kernel(NftLossArrays<V, X> arrays, NftLossSettings settings,
                                    Weighting weighting, NftLossOutputs outputs,
                                    std::int64_t first_sample, std::int64_t items,
                                    std::int64_t chunks, const NftSums<double>* parts) {
  using T = ComputeType<V>;
  __shared__ double shared[3];
  for (std::int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const std::int64_t sample = first_sample + item / chunks;
    const std::int64_t begin = item % chunks * cuda_chunk;
    const std::int64_t end =
        begin + cuda_chunk < arrays.elements ? begin + cuda_chunk : arrays.elements;
    const NftSums<double> sums = sum_of_parts(parts + sample * chunks, chunks);
    if (threadIdx.x == 0) {
      const NftSample terms = nft_sample(sums, weighting, settings, sample, arrays.batch,
                                         arrays.elements, arrays.t[sample], arrays.r[sample]);
      shared[0] = terms.slopes.w;
      shared[1] = terms.slopes.d;
      shared[2] = terms.slopes.kl;
      if (begin == 0) {
        outputs.positive[sample] = terms.positive;
        outputs.negative[sample] = terms.negative;
        if (outputs.kl != nullptr) outputs.kl[sample] = terms.kl;
      }
    }
    __syncthreads();
    const NftSlopes<T> slopes{static_cast<T>(shared[0]), static_cast<T>(shared[1]),
                              static_cast<T>(shared[2])};
    __syncthreads();
    if (arrays.gradient == nullptr) continue;
    const std::int64_t start = sample * arrays.elements;
    for (std::int64_t i = begin + threadIdx.x; i < end; i += cuda_threads) {
      const CudaElement<V, X> element(arrays, start + i);
      arrays.gradient[start + i] =
          static_cast<V>(nft_slope(element.differences, slopes) + slopes.kl * element.deviation);
    }
  }
}

template <class Weighting>
__global__ void nft_total_kernel(NftLossOutputs outputs, const double* r, std::int64_t batch,
                                 Weighting weighting, NftLossSettings settings, bool with_kl,
                                 NftLossValue* value) {
  *value = nft_total(outputs, r, batch, weighting, settings, with_kl);
}

inline std::int64_t cuda_chunks(std::int64_t elements) {
  return (elements + cuda_chunk - 1) / cuda_chunk;
}

inline unsigned cuda_blocks(std::int64_t items) {
  return static_cast<unsigned>(items < cuda_max_blocks ? items : cuda_max_blocks);
}

// Samples whose arrays fill about half of the L2 cache: their gradient reads them there.
template <class V, class X>
cudaError_t samples_in_cache(std::int64_t elements, std::int64_t* samples) {
  int device = 0, bytes = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  if (const cudaError_t error = cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device)) {
    return error;
  }
  const std::int64_t per_sample =
      elements * static_cast<std::int64_t>(4 * sizeof(V) + 2 * sizeof(X));
  const std::int64_t fit = bytes / 2 / per_sample;
  *samples = fit < 1 ? 1 : fit;
  return cudaSuccess;
}

template <class V, class X>
bool nft_loss_is_valid(const NftLossArrays<V, X>& arrays, const NftLossSettings& settings,
                       const NftLossOutputs& outputs) {
  return arrays.batch >= 1 && arrays.elements >= 1 && settings.beta > 0 &&
         std::isfinite(settings.beta) && arrays.v_theta != nullptr && arrays.v_old != nullptr &&
         arrays.x0 != nullptr && arrays.eps != nullptr && arrays.t != nullptr &&
         arrays.r != nullptr && outputs.positive != nullptr && outputs.negative != nullptr &&
         (arrays.v_ref == nullptr || outputs.kl != nullptr);
}

}  // namespace detail

/// Bytes of device memory that nft_loss_cuda needs beside its arrays, aligned to 8.
/// @param batch number of samples
/// @param elements of one sample
inline std::size_t nft_loss_cuda_workspace(std::int64_t batch, std::int64_t elements) {
  return static_cast<std::size_t>(batch * detail::cuda_chunks(elements)) * sizeof(NftSums<double>);
}

/// NFT loss, its terms per sample and its gradient on a CUDA device: see nft_loss of the host.
///
/// Samples are taken in groups that fit the L2 cache: their sums, then their gradient. Nothing is
/// allocated and nothing waits: the work is queued on the stream. Bits depend on the arguments
/// only.
///
/// @param arrays device pointers, also t and r
/// @param settings beta, weight of the KL term, upstream factor
/// @param weighting AdaptiveWeighting, or FixedWeighting with a device pointer
/// @param outputs device pointers
/// @param value device pointer for the total
/// @param workspace device memory of nft_loss_cuda_workspace(batch, elements) bytes
/// @param stream where the kernels are queued
/// @return cudaErrorInvalidValue for what the host form throws at, else what the launches return
/// @par Random numbers
/// none
template <class V, class X, class Weighting>
cudaError_t nft_loss_cuda(const NftLossArrays<V, X>& arrays, const NftLossSettings& settings,
                          const Weighting& weighting, const NftLossOutputs& outputs,
                          NftLossValue* value, void* workspace, cudaStream_t stream) {
  if (!detail::nft_loss_is_valid(arrays, settings, outputs) || value == nullptr ||
      workspace == nullptr) {
    return cudaErrorInvalidValue;
  }
  auto* parts = static_cast<NftSums<double>*>(workspace);
  const std::int64_t chunks = detail::cuda_chunks(arrays.elements);
  std::int64_t group = 0;
  if (const cudaError_t error = detail::samples_in_cache<V, X>(arrays.elements, &group)) {
    return error;
  }
  for (std::int64_t first = 0; first < arrays.batch; first += group) {
    const std::int64_t samples = first + group < arrays.batch ? group : arrays.batch - first;
    const std::int64_t items = samples * chunks;
    detail::nft_sums_kernel<Weighting>
        <<<detail::cuda_blocks(items), detail::cuda_threads, 0, stream>>>(arrays, settings, first,
                                                                          items, chunks, parts);
    detail::nft_gradient_kernel<Weighting>
        <<<detail::cuda_blocks(items), detail::cuda_threads, 0, stream>>>(
            arrays, settings, weighting, outputs, first, items, chunks, parts);
    if (const cudaError_t error = cudaGetLastError()) return error;
  }
  detail::nft_total_kernel<<<1, 1, 0, stream>>>(outputs, arrays.r, arrays.batch, weighting,
                                                settings, arrays.v_ref != nullptr, value);
  return cudaGetLastError();
}

}  // namespace contraflow::kernels
