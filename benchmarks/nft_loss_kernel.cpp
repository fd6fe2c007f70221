// The fused NFT loss against one pass over its six arrays, which no way to compute it can beat.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>

#include <contraflow/kernels/nft_loss.hpp>

namespace {

namespace kernels = contraflow::kernels;

constexpr std::int64_t batch = 48;
constexpr std::int64_t elements = 16 * 64 * 64;

// One contiguous range a thread, as at::parallel_for divides its work.
struct ThreadLoop {
  std::int64_t count;

  std::int64_t threads() const { return count; }

  template <class Body>
  void operator()(std::int64_t size, Body&& body) const {
    const auto bound = [&](std::int64_t k) { return size * k / count; };
    std::vector<std::jthread> others;
    for (std::int64_t k = 1; k < count; ++k) {
      others.emplace_back([&body, begin = bound(k), end = bound(k + 1)] { body(begin, end); });
    }
    body(bound(0), bound(1));
  }
};

struct Arrays {
  std::vector<float> v_theta, v_old, v_ref, x0, eps, gradient;
  std::vector<double> t, r, positive, negative, kl;

  Arrays() : gradient(batch * elements), positive(batch), negative(batch), kl(batch) {
    std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    for (auto* array : {&v_theta, &v_old, &v_ref, &x0, &eps}) {
      array->resize(batch * elements);
      for (float& value : *array) value = normal(generator);
    }
    for (std::int64_t i = 0; i < batch; ++i) {
      t.push_back((static_cast<double>(i) + 0.5) / batch);
      r.push_back(static_cast<double>(i % 7) / 6.0);
    }
  }

  kernels::NftLossArrays<float, float> inputs() {
    return {v_theta.data(), v_old.data(), v_ref.data(),    x0.data(), eps.data(),
            t.data(),       r.data(),     gradient.data(), batch,     elements};
  }
  kernels::NftLossOutputs outputs() { return {positive.data(), negative.data(), kl.data()}; }
};

void one_pass(const kernels::NftLossArrays<float, float>& a, const ThreadLoop& loop) {
  loop(batch, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first * elements; i < last * elements; ++i) {
      a.gradient[i] = a.v_theta[i] + a.v_old[i] + a.v_ref[i] + a.x0[i] + a.eps[i];
    }
  });
}

template <class Operation>
double seconds(Operation&& operation) {
  const auto start = std::chrono::steady_clock::now();
  operation();
  benchmark::ClobberMemory();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Both are timed in turn, so that whatever else the machine does meets them alike.
template <class Weighting>
void fused(benchmark::State& state, const Weighting& weighting) {
  Arrays arrays;
  const auto inputs = arrays.inputs();
  const ThreadLoop loop{state.range(0)};
  std::vector<double> pass_seconds, fused_seconds;
  for (auto _ : state) {
    pass_seconds.push_back(seconds([&] { one_pass(inputs, loop); }));
    fused_seconds.push_back(seconds([&] {
      benchmark::DoNotOptimize(kernels::nft_loss(inputs, {.beta = 1.0, .kl_weight = 1e-4},
                                                 weighting, arrays.outputs(), loop));
    }));
    state.SetIterationTime(fused_seconds.back());
  }
  state.counters["one_pass_ms"] = 1e3 * median(pass_seconds);
  state.counters["fused_ms"] = 1e3 * median(fused_seconds);
  state.counters["passes"] = median(fused_seconds) / median(pass_seconds);
}

void adaptive_weighting(benchmark::State& state) { fused(state, kernels::AdaptiveWeighting{}); }
void fixed_weighting(benchmark::State& state) { fused(state, kernels::FixedWeighting{}); }

BENCHMARK(adaptive_weighting)->Arg(1)->Arg(2)->ArgName("threads")->UseManualTime();
BENCHMARK(fixed_weighting)->Arg(1)->Arg(2)->ArgName("threads")->UseManualTime();

}  // namespace

BENCHMARK_MAIN();
