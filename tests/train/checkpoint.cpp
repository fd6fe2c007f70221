#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <torch/optim/adam.h>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/mixture.hpp>
#include <contraflow/toy/rewards.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "laws/compare.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
namespace fs = std::filesystem;

namespace {

auto trainer_of(std::uint64_t model_seed = 1) {
  return cf::Trainer(
      cf::SnapshotPolicy(cf::MlpVelocity({.width = 16, .depth = 2, .seed = model_seed})),
      cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}}, cf::Nft{} + 1e-2 * cf::VelocityKl{},
      cf::Collection{.prompts_per_epoch = 3, .group_size = 5, .grid = cf::uniform_grid(4)},
      cf::Seed{7});
}

template <class T>
void check_same_bits(T& a, T& b) {
  const auto left = a.policy().state(), right = b.policy().state();
  REQUIRE(left.size() == right.size());
  for (const auto& [name, tensor] : left) {
    INFO(name);
    CHECK(at::equal(tensor, right.at(name)));
  }
}

// Runs @p first to its half and @p second, which was made in another way, from its checkpoint to
// the end; then @p whole without a stop.
template <class T>
void check_resumed(T& whole, T& first, T& second, std::int64_t epochs) {
  const TemporaryDirectory folder;
  whole.run(epochs);
  first.run(epochs / 2, cf::Checkpoint{.directory = folder.path(), .every = 100});
  REQUIRE(cf::resume(second, folder.path()));
  CHECK(second.epoch() == epochs / 2);
  CHECK(second.seed() == first.seed());
  CHECK(second.evaluations().forward == first.evaluations().forward);
  const cf::RunReport report = second.run(epochs);

  CHECK(report.epochs == epochs);
  CHECK(second.gradient_steps() == whole.gradient_steps());
  CHECK(second.evaluations().forward == whole.evaluations().forward);
  CHECK(second.evaluations().backward == whole.evaluations().backward);
  CHECK(second.seconds() > 0);
  check_same_bits(second, whole);
}

// Adam of torch's own.
cf::Optimization adam(double rate) {
  return {.optimizer =
              [rate](std::vector<cf::Tensor> parameters) {
                return std::make_unique<torch::optim::Adam>(std::move(parameters), rate);
              },
          .learning_rate_factor = cf::Ramp{.rate = 0.1, .max = 1}};
}

}  // namespace

TEST_CASE("a resumed run has the bits of one that was never stopped") {
  // Other weights: all must come from the checkpoint.
  auto whole = trainer_of(), first = trainer_of(), second = trainer_of(/*model_seed=*/2);
  check_resumed(whole, first, second, 7);
}

TEST_CASE("so has one of several steps and passes, of another seed and with torch's Adam") {
  const auto make = [](std::uint64_t seed, std::uint64_t model_seed) {
    return cf::Trainer(
        cf::SnapshotPolicy(cf::MlpVelocity({.width = 16, .depth = 2, .seed = model_seed})),
        cf::FlowSde{}, cf::toy::InModes{{1, 4}},
        cf::Grpo{.clip_range = 0.1} + 0.1 * cf::FlowMatching{},
        cf::Collection{.prompts_per_epoch = 3, .group_size = 5, .grid = cf::uniform_grid(4)},
        cf::Learning{.gradient_steps = 2, .inner_epochs = 3}, adam(1e-2), cf::Seed{seed});
  };
  auto whole = make(7, 1), first = make(7, 1), second = make(/*seed=*/8, /*model_seed=*/2);
  check_resumed(whole, first, second, 6);
}

TEST_CASE("so has training on stored samples") {
  const auto make = [](std::uint64_t seed, std::uint64_t model_seed) {
    return cf::OfflineTrainer(
        cf::SnapshotPolicy(cf::MlpVelocity({.width = 16, .depth = 2, .seed = model_seed})),
        cf::StoredSamples{laws::floats({9, 2}), laws::doubles({9}, 2), at::zeros({9}, at::kLong)},
        cf::Nft{} + 0.5 * cf::Dpo{}, cf::Learning{.gradient_steps = 2, .inner_epochs = 2},
        cf::Seed{seed});
  };
  auto whole = make(7, 1), first = make(7, 1), second = make(8, 2);
  check_resumed(whole, first, second, 5);
}

TEST_CASE("so has pre-training") {
  const auto make = [](std::uint64_t seed, std::uint64_t model_seed) {
    return cf::Pretrainer(cf::MlpVelocity({.width = 16, .depth = 2, .seed = model_seed}),
                          cf::toy::ring(), cf::Pretraining{.batch = 16, .report_every = 3},
                          cf::Seed{seed});
  };
  auto whole = make(7, 1), first = make(7, 1), second = make(8, 2);
  check_resumed(whole, first, second, 5);
  CHECK(whole.gradient_steps() == 15);
}

TEST_CASE("a checkpoint holds the seed and the counts, and no state of random numbers") {
  auto trainer = trainer_of();
  trainer.run(2);
  const cf::TrainerState state = trainer.state();
  std::vector<std::string> names;
  for (const auto& [name, count] : state.counts) names.push_back(name);
  CHECK(names == std::vector<std::string>{"backward_evaluations", "epoch", "forward_evaluations",
                                          "gradient_steps", "nanoseconds", "seed"});
  CHECK(state.counts.at("seed") == 7);
  for (const auto& [name, tensor] : state.tensors) {
    INFO(name);
    CHECK((name == "loss_scale" || name.starts_with("current.") || name.starts_with("old.") ||
           name.starts_with("reference.") || name.starts_with("average.")));
  }
}

TEST_CASE("only the newest checkpoints are kept, and an incomplete one is never taken") {
  const TemporaryDirectory folder;
  auto trainer = trainer_of();
  trainer.run(5, cf::Checkpoint{.directory = folder.path(), .every = 1, .keep = 2});
  fs::create_directories(folder.path() / "epoch-00000009.partial");

  const auto checkpoints = cf::checkpoints_in(folder.path());
  REQUIRE(checkpoints.size() == 2);
  CHECK(checkpoints.back().filename() == "epoch-00000005");
}

TEST_CASE("resuming says whether there was anything to resume") {
  const TemporaryDirectory folder;
  auto trainer = trainer_of();
  CHECK_FALSE(cf::resume(trainer, folder.path()));
  CHECK_FALSE(cf::resume(trainer, folder.path() / "missing"));
}

TEST_CASE("a damaged checkpoint is refused by name") {
  const TemporaryDirectory folder;
  auto trainer = trainer_of();
  const fs::path checkpoint = cf::save_checkpoint(trainer, folder.path());

  SECTION("truncated tensors") {
    fs::resize_file(checkpoint / "state.safetensors", 100);
    CHECK_THROWS_AS(cf::load_checkpoint(trainer, checkpoint), cf::Error);
  }
  SECTION("truncated optimiser") {
    fs::resize_file(checkpoint / "optimizer.pt", 10);
    CHECK_THROWS_AS(cf::load_checkpoint(trainer, checkpoint), cf::Error);
  }
  SECTION("another composition") {
    auto other = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({.width = 8, .depth = 2})),
                             cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}}, cf::Nft{});
    CHECK_THROWS_AS(cf::load_checkpoint(other, checkpoint), cf::Error);
  }
  SECTION("a folder that cannot be made") {
    std::ofstream(folder.path() / "file") << "in the way";
    CHECK_THROWS_AS(cf::save_checkpoint(trainer, folder.path() / "file"), cf::Error);
  }
}
