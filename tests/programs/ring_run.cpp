// A run of NFT on the ring task with all the files that a run writes, for soak.py.
//
//   ring_run --output FOLDER --epochs N

#include <cstdint>
#include <filesystem>
#include <iostream>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <contraflow/contraflow.hpp>
#include <contraflow/core/memory.hpp>
#include <contraflow/observe/csv.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/tensorboard.hpp>
#include <contraflow/toy/rewards.hpp>
#include <contraflow/train/checkpoint.hpp>

namespace cf = contraflow;

int main(int argc, char** argv) {
  std::filesystem::path output;
  std::int64_t epochs = 1000;
  CLI::App app("NFT on the ring task, with all files of a run.");
  app.add_option("--output", output, "Folder for its files")->required();
  app.add_option("--epochs", epochs, "Epochs in all")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(1);
  cf::keep_freed_memory();
  try {
    cf::Trainer trainer(
        cf::SnapshotPolicy(cf::MlpVelocity({})), cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}},
        cf::Nft{} + 1e-4 * cf::VelocityKl{},
        cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
        cf::EvaluationOptions{.every = 50});
    trainer.run(epochs, cf::JsonLines{output / "run.jsonl"}, cf::Csv{output / "run.csv"},
                cf::TensorBoard{output / "tensorboard"},
                cf::Checkpoint{.directory = output / "checkpoints", .every = 10});
  } catch (const std::exception& failure) {
    std::cerr << failure.what() << '\n';
    return 1;
  }
}
