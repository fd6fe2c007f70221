#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>
#include <contraflow/train/checkpoint.hpp>

namespace cf = contraflow;
namespace fs = std::filesystem;

namespace {

/// A folder that goes with the test.
struct Folder {
  Folder() {
    std::string name = (fs::temp_directory_path() / "contraflow-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

auto trainer_of(std::uint64_t model_seed = 1) {
  return cf::Trainer(
      cf::SnapshotPolicy(cf::MlpVelocity({.width = 16, .depth = 2, .seed = model_seed})),
      cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}}, cf::Nft{} + 1e-2 * cf::VelocityKl{},
      {.prompts_per_epoch = 3, .group_size = 5, .grid = cf::uniform_grid(4), .seed = 7});
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

}  // namespace

TEST_CASE("a resumed run has the bits of one that was never stopped") {
  const Folder folder;
  auto whole = trainer_of();
  whole.run(7);

  auto first = trainer_of();
  first.run(4, cf::Checkpoint(first, {.directory = folder.path, .every = 100}));
  auto second = trainer_of(/*model_seed=*/2);  // other weights: all must come from the checkpoint
  REQUIRE(cf::resume(second, folder.path));
  CHECK(second.epoch() == 4);
  CHECK(second.evaluations().forward == first.evaluations().forward);
  const cf::RunReport report = second.run(7);

  CHECK(report.epochs == 7);
  CHECK(second.gradient_steps() == whole.gradient_steps());
  CHECK(second.evaluations().forward == whole.evaluations().forward);
  CHECK(second.evaluations().backward == whole.evaluations().backward);
  check_same_bits(second, whole);
}

TEST_CASE("only the newest checkpoints are kept, and an incomplete one is never taken") {
  const Folder folder;
  auto trainer = trainer_of();
  trainer.run(5, cf::Checkpoint(trainer, {.directory = folder.path, .every = 1, .keep = 2}));
  fs::create_directories(folder.path / "epoch-00000009.partial");

  const auto checkpoints = cf::checkpoints_in(folder.path);
  REQUIRE(checkpoints.size() == 2);
  CHECK(checkpoints.back().filename() == "epoch-00000005");
}

TEST_CASE("resuming says whether there was anything to resume") {
  const Folder folder;
  auto trainer = trainer_of();
  CHECK_FALSE(cf::resume(trainer, folder.path));
  CHECK_FALSE(cf::resume(trainer, folder.path / "missing"));
}

TEST_CASE("a damaged checkpoint is refused by name") {
  const Folder folder;
  auto trainer = trainer_of();
  const fs::path checkpoint = cf::save_checkpoint(trainer, folder.path);

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
    std::ofstream(folder.path / "file") << "in the way";
    CHECK_THROWS_AS(cf::save_checkpoint(trainer, folder.path / "file"), cf::Error);
  }
}
