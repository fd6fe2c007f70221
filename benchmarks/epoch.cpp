// Advantages of an epoch, and whole epochs of the ring task: NFT and FlowGRPO.

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <contraflow/contraflow.hpp>
#include <contraflow/core/memory.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

namespace {

template <class Advantage>
void advantages(benchmark::State& state) {
  cf::Generator generator = cf::seeded(0);
  const std::int64_t groups = state.range(0), size = 24;
  const cf::Tensor reward = cf::uniform({groups * size}, generator).to(at::kDouble);
  const cf::Tensor group = at::arange(groups, at::kLong).repeat_interleave(size);
  for (auto _ : state) benchmark::DoNotOptimize(Advantage{}(reward, group));
  state.SetItemsProcessed(state.iterations() * reward.numel());
}

template <class Solver, class Objective>
void ring_epoch(benchmark::State& state, Solver solver, Objective objective) {
  at::set_num_threads(static_cast<int>(state.range(0)));
  cf::keep_freed_memory();
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(cf::MlpVelocity({})), solver, cf::toy::InModes{{1, 4}}, objective,
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)});
  for (auto _ : state) trainer.run_epoch();
}

}  // namespace

BENCHMARK(advantages<cf::GroupAdvantage>)->Arg(48)->Arg(480);
BENCHMARK(advantages<cf::RankAdvantage>)->Arg(48)->Arg(480);
BENCHMARK(advantages<cf::LeaveOneOut>)->Arg(48)->Arg(480);
BENCHMARK_CAPTURE(ring_epoch, nft, cf::DpmSolver<2>{}, cf::Nft{} + 1e-4 * cf::VelocityKl{})
    ->Arg(1)
    ->Arg(2)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(ring_epoch, flow_grpo, cf::FlowSde{}, cf::Grpo{} + 0.04 * cf::TransitionKl{})
    ->Arg(1)
    ->Arg(2)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
