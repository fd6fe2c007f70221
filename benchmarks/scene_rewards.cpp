// Scenes drawn and judged, a thousand at a time.

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <contraflow/toy/scene_drawing.hpp>
#include <contraflow/toy/scene_rewards.hpp>

namespace cf = contraflow;
namespace scenes = contraflow::toy::scenes;

namespace {

constexpr std::int64_t count = 1000;

cf::Tensor prompts() { return at::arange(count, at::kLong).remainder(scenes::catalogue().size()); }

void draw(benchmark::State& state) {
  at::set_num_threads(1);
  cf::Generator generator = cf::seeded(0);
  const cf::Tensor ids = prompts();
  for (auto _ : state) {
    benchmark::DoNotOptimize(scenes::draw(scenes::catalogue().prompts(), ids, generator));
  }
  state.SetItemsProcessed(state.iterations() * count);
}

void judge(benchmark::State& state) {
  at::set_num_threads(1);
  cf::Generator generator = cf::seeded(0);
  const cf::Tensor ids = prompts();
  const cf::Tensor latents = scenes::draw(scenes::catalogue().prompts(), ids, generator);
  for (auto _ : state) {
    benchmark::DoNotOptimize(scenes::judge(scenes::catalogue().prompts(), ids, latents));
  }
  state.SetItemsProcessed(state.iterations() * count);
}

void reward(benchmark::State& state) {
  at::set_num_threads(1);
  cf::Generator generator = cf::seeded(0);
  const cf::Tensor ids = prompts();
  const cf::Tensor latents = scenes::draw(scenes::catalogue().prompts(), ids, generator);
  for (auto _ : state) benchmark::DoNotOptimize(scenes::Strict{}(latents, ids));
  state.SetItemsProcessed(state.iterations() * count);
}

}  // namespace

BENCHMARK(draw)->Unit(benchmark::kMillisecond);
BENCHMARK(judge)->Unit(benchmark::kMillisecond);
BENCHMARK(reward)->Unit(benchmark::kMillisecond);
