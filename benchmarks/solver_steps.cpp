// One step of every solver, with a velocity that costs next to nothing: what the solver itself
// takes. The first argument is the number of threads; the second the dimension of a batch of 192
// points, or 0 for a batch of 24 latents. Reported beside it: bytes of one read and one write of
// the state.

#include <vector>

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/integrate.hpp>
#include <contraflow/solver/sde.hpp>
#include <contraflow/solver/window.hpp>

namespace cf = contraflow;

namespace {

template <class Solver>
void steps_of(benchmark::State& state) {
  at::set_num_threads(static_cast<int>(state.range(0)));
  const at::NoGradGuard no_gradient;
  cf::Generator generator = cf::seeded(0);
  const auto dimension = state.range(1);
  const std::vector<std::int64_t> shape = dimension == 0
                                              ? std::vector<std::int64_t>{24, 16, 64, 64}
                                              : std::vector<std::int64_t>{192, dimension};
  const cf::Tensor start = cf::normal(shape, generator);
  const cf::Tensor v = cf::normal(shape, generator);
  const auto velocity = [&](const cf::Tensor&, double) { return v; };
  const cf::TimeGrid grid = cf::sd3_grid(10);
  for (auto _ : state) {
    benchmark::DoNotOptimize(cf::integrate(Solver{}, velocity, start, grid, generator));
  }
  const auto steps = static_cast<std::int64_t>(grid.steps()) * state.iterations();
  state.SetItemsProcessed(steps);
  state.SetBytesProcessed(steps * 2 * start.numel() * start.element_size());
}

}  // namespace

#define CONTRAFLOW_STEPS(...)                  \
  BENCHMARK(steps_of<__VA_ARGS__>)             \
      ->Name(#__VA_ARGS__)                     \
      ->ArgsProduct({{1, 2}, {0, 2, 32, 512}}) \
      ->UseRealTime()

CONTRAFLOW_STEPS(cf::Euler);
CONTRAFLOW_STEPS(cf::Heun);
CONTRAFLOW_STEPS(cf::Rk4);
CONTRAFLOW_STEPS(cf::DpmSolver<1>);
CONTRAFLOW_STEPS(cf::DpmSolver<2>);
CONTRAFLOW_STEPS(cf::DpmSolver<3>);
CONTRAFLOW_STEPS(cf::Ddim);
CONTRAFLOW_STEPS(cf::FlowSde);
CONTRAFLOW_STEPS(cf::DanceSde);
CONTRAFLOW_STEPS(cf::Cps);
CONTRAFLOW_STEPS(cf::Window<cf::FlowSde, cf::DpmSolver<2>>);
