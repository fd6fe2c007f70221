// The NFT epoch of the ring task: prints seconds an epoch (median), like ring_epoch.py.

#include <algorithm>
#include <cstdio>
#include <vector>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <contraflow/contraflow.hpp>
#include <contraflow/core/memory.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

int main(int argc, char** argv) {
  int epochs = 200, threads = 1;
  CLI::App app("Seconds an epoch of NFT on the ring task");
  app.add_option("--epochs", epochs, "epochs to run")->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "threads of an operation")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(threads);
  cf::keep_freed_memory();

  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(cf::MlpVelocity({})), cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}},
      cf::Nft{} + 1e-4 * cf::VelocityKl{},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)});
  std::vector<double> seconds;
  for (int i = 0; i < epochs; ++i) {
    const double before = trainer.seconds();
    trainer.run_epoch();
    seconds.push_back(trainer.seconds() - before);
  }
  seconds.erase(seconds.begin(), seconds.begin() + epochs / 5);
  std::nth_element(seconds.begin(), seconds.begin() + std::ptrdiff_t(seconds.size() / 2),
                   seconds.end());
  std::printf("%.6f\n", seconds[seconds.size() / 2]);
}
