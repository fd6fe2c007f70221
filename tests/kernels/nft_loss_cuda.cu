// The CUDA form of the NFT loss against the host form. Exits with 77 where there is no device.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <contraflow/kernels/nft_loss.cuh>
#include <contraflow/kernels/nft_loss.hpp>

namespace {

namespace kernels = contraflow::kernels;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::printf("%s\n", cudaGetErrorString(error));
  std::exit(1);
}

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t size) : size_(size) {
    check(cudaMalloc(&data_, size * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    check(cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* get() { return data_; }
  std::vector<T> host() const {
    std::vector<T> values(size_);
    check(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

template <class T>
double difference(const std::vector<T>& a, const std::vector<T>& b) {
  double apart = 0, largest = 1e-30;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(static_cast<kernels::ComputeType<T>>(a[i]));
    const double y = static_cast<double>(static_cast<kernels::ComputeType<T>>(b[i]));
    if (std::isnan(x) != std::isnan(y)) return HUGE_VAL;
    apart = std::max(apart, std::fabs(x - y));
    largest = std::max(largest, std::fabs(x));
  }
  return apart / largest;
}

template <class T>
std::vector<T> normal_values(std::size_t size, std::mt19937& generator) {
  std::normal_distribution<float> normal;
  std::vector<T> values;
  values.reserve(size);
  for (std::size_t i = 0; i < size; ++i) values.push_back(static_cast<T>(normal(generator)));
  return values;
}

// Result of one form of the operation.
template <class V>
struct Result {
  std::vector<V> gradient;
  std::vector<double> positive, negative, kl, value;
};

template <class V, class X>
struct Problem {
  std::int64_t batch, elements;
  bool with_kl;
  std::vector<V> v_theta, v_old, v_ref;
  std::vector<X> x0, eps;
  std::vector<double> t, r, weight;

  Problem(std::int64_t samples, std::int64_t size, bool kl)
      : batch(samples), elements(size), with_kl(kl) {
    std::mt19937 generator(11);
    const auto total = static_cast<std::size_t>(batch * elements);
    v_theta = normal_values<V>(total, generator);
    v_old = normal_values<V>(total, generator);
    v_ref = normal_values<V>(total, generator);
    x0 = normal_values<X>(total, generator);
    eps = normal_values<X>(total, generator);
    std::uniform_real_distribution<double> uniform;
    for (std::int64_t i = 0; i < batch; ++i) {
      t.push_back(uniform(generator));
      r.push_back(uniform(generator));
      weight.push_back(uniform(generator));
    }
  }

  Result<V> empty_result() const {
    const auto samples = static_cast<std::size_t>(batch);
    return {std::vector<V>(static_cast<std::size_t>(batch * elements)),
            std::vector<double>(samples), std::vector<double>(samples),
            std::vector<double>(samples), std::vector<double>(3)};
  }
};

const kernels::NftLossSettings settings{0.7, 0.01, 3.0};

template <class V, class X, class Weighting>
Result<V> on_host(const Problem<V, X>& p, const Weighting& weighting) {
  Result<V> result = p.empty_result();
  const kernels::NftLossArrays<V, X> arrays{
      p.v_theta.data(), p.v_old.data(),         p.with_kl ? p.v_ref.data() : nullptr,
      p.x0.data(),      p.eps.data(),           p.t.data(),
      p.r.data(),       result.gradient.data(), p.batch,
      p.elements};
  const auto value =
      kernels::nft_loss(arrays, settings, weighting,
                        {result.positive.data(), result.negative.data(), result.kl.data()});
  result.value = {value.policy, value.kl, value.total};
  return result;
}

template <class V, class X, class Weighting>
Result<V> on_device(const Problem<V, X>& p, const Weighting& weighting) {
  DeviceArray<V> v_theta(p.v_theta), v_old(p.v_old), v_ref(p.v_ref), gradient(p.v_theta.size());
  DeviceArray<X> x0(p.x0), eps(p.eps);
  DeviceArray<double> t(p.t), r(p.r);
  const auto samples = static_cast<std::size_t>(p.batch);
  DeviceArray<double> positive(samples), negative(samples), kl(samples);
  DeviceArray<kernels::NftLossValue> value(1);
  DeviceArray<char> workspace(kernels::nft_loss_cuda_workspace(p.batch, p.elements));
  const kernels::NftLossArrays<V, X> arrays{
      v_theta.get(), v_old.get(),    p.with_kl ? v_ref.get() : nullptr,
      x0.get(),      eps.get(),      t.get(),
      r.get(),       gradient.get(), p.batch,
      p.elements};
  check(kernels::nft_loss_cuda(arrays, settings, weighting,
                               {positive.get(), negative.get(), kl.get()}, value.get(),
                               workspace.get(), nullptr));
  check(cudaDeviceSynchronize());
  const kernels::NftLossValue total = value.host()[0];
  return {gradient.host(),
          positive.host(),
          negative.host(),
          kl.host(),
          {total.policy, total.kl, total.total}};
}

template <class V>
bool agree(const char* name, double tolerance, const Result<V>& host, const Result<V>& device) {
  const double worst = std::max(
      {difference(host.gradient, device.gradient), difference(host.positive, device.positive),
       difference(host.negative, device.negative), difference(host.kl, device.kl),
       difference(host.value, device.value)});
  std::printf("%-28s %.2e (at most %.0e)\n", name, worst, tolerance);
  return worst <= tolerance;
}

template <class V, class X>
bool both_weightings(const char* name, std::int64_t batch, std::int64_t elements, bool with_kl,
                     double tolerance) {
  const Problem<V, X> problem(batch, elements, with_kl);
  const kernels::AdaptiveWeighting adaptive{2.0, 1e-5};
  bool ok = agree(name, tolerance, on_host(problem, adaptive), on_device(problem, adaptive));
  DeviceArray<double> weight(problem.weight);
  ok &= agree(name, tolerance, on_host(problem, kernels::FixedWeighting{problem.weight.data()}),
              on_device(problem, kernels::FixedWeighting{weight.get()}));
  return ok;
}

bool refuses_bad_arguments() {
  Problem<float, float> problem(1, 4, false);
  const kernels::NftLossArrays<float, float> nothing{};
  return kernels::nft_loss_cuda(nothing, settings, kernels::AdaptiveWeighting{}, {}, nullptr,
                                nullptr, nullptr) == cudaErrorInvalidValue;
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  bool ok = refuses_bad_arguments();
  ok &= both_weightings<float, float>("float [5, 2]", 5, 2, true, 1e-5);
  ok &= both_weightings<float, float>("float [3, 1000]", 3, 1000, false, 1e-5);
  ok &= both_weightings<float, float>("float [48, 65536]", 48, 65536, true, 1e-5);
  ok &= both_weightings<float, float>("float [2, 16385]", 2, 16385, true, 1e-5);
  ok &= both_weightings<double, double>("double [4, 40000]", 4, 40000, true, 1e-12);
  ok &= both_weightings<__nv_bfloat16, float>("bfloat16 [4, 4096]", 4, 4096, true, 1e-2);
  return ok ? 0 : 1;
}
