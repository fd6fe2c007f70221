// The fused NFT loss on a GPU in bytes per second, against a copy on the device: both move memory
// and nothing else is needed. Prints one line of JSON. Exits with 77 where there is no device.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <cuda_runtime.h>

#include <contraflow/kernels/nft_loss.cuh>

namespace {

namespace kernels = contraflow::kernels;

constexpr int rounds = 50;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

template <class T>
T* filled(std::int64_t count, const std::vector<T>& values) {
  T* data = nullptr;
  check(cudaMalloc(&data, static_cast<std::size_t>(count) * sizeof(T)));
  if (!values.empty()) {
    check(cudaMemcpy(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  return data;
}

// Median milliseconds of what is queued.
template <class F>
float milliseconds(F&& queue) {
  cudaEvent_t before, behind;
  check(cudaEventCreate(&before));
  check(cudaEventCreate(&behind));
  std::vector<float> times;
  for (int i = 0; i < rounds + 5; ++i) {
    check(cudaEventRecord(before));
    queue();
    check(cudaEventRecord(behind));
    check(cudaEventSynchronize(behind));
    float time = 0;
    check(cudaEventElapsedTime(&time, before, behind));
    if (i >= 5) times.push_back(time);
  }
  std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
  return times[rounds / 2];
}

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  const std::int64_t batch = argc > 1 ? std::atoll(argv[1]) : 48;
  const std::int64_t elements = argc > 2 ? std::atoll(argv[2]) : 16 * 64 * 64;
  const std::int64_t count = batch * elements;
  std::vector<float> values(static_cast<std::size_t>(count));
  std::uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<float>(state >> 8) / 8388608.0F - 1;
  }
  const std::vector<double> halves(static_cast<std::size_t>(batch), 0.5);
  kernels::NftLossArrays<float, float> arrays;
  arrays.v_theta = filled(count, values);
  std::reverse(values.begin(), values.end());
  arrays.v_old = filled(count, values);
  std::rotate(values.begin(), values.begin() + 7, values.end());
  arrays.v_ref = filled(count, values);
  arrays.x0 = filled(count, values);
  std::reverse(values.begin(), values.end());
  arrays.eps = filled(count, values);
  arrays.t = filled(batch, halves);
  arrays.r = filled(batch, halves);
  arrays.gradient = filled<float>(count, {});
  arrays.batch = batch;
  arrays.elements = elements;
  const kernels::NftLossOutputs outputs{filled<double>(batch, {}), filled<double>(batch, {}),
                                        filled<double>(batch, {})};
  auto* value = filled<kernels::NftLossValue>(1, {});
  auto* workspace = filled<char>(
      static_cast<std::int64_t>(kernels::nft_loss_cuda_workspace(batch, elements)), {});

  const float fused = milliseconds([&] {
    check(kernels::nft_loss_cuda(arrays, {1.0, 1e-4}, kernels::AdaptiveWeighting{}, outputs, value,
                                 workspace, nullptr));
  });
  // Three arrays to three others: the six arrays once.
  const std::size_t three = static_cast<std::size_t>(3 * count) * sizeof(float);
  float *from = filled<float>(3 * count, {}), *to = filled<float>(3 * count, {});
  const float copy = milliseconds(
      [&] { check(cudaMemcpyAsync(to, from, three, cudaMemcpyDeviceToDevice, nullptr)); });
  const double bytes = 2 * static_cast<double>(three);
  std::printf(
      "{\"fused_ms\": %.4f, \"copy_ms\": %.4f, \"fused_bytes_per_second\": %.4e, "
      "\"copy_bytes_per_second\": %.4e, \"passes\": %.3f}\n",
      fused, copy, bytes / (fused * 1e-3), bytes / (copy * 1e-3), fused / copy);
}
