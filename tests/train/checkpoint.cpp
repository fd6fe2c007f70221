#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <sys/resource.h>
#include <torch/optim/adam.h>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/mixture.hpp>
#include <contraflow/toy/rewards.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

using Catch::Matchers::ContainsSubstring;
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
                                          "gradient_steps", "nanoseconds", "run", "seed"});
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

namespace {

// The epochs of a folder's checkpoints, in the order in which they were written.
std::vector<std::string> epochs_in(const fs::path& folder) {
  std::vector<std::string> epochs;
  for (const auto& path : cf::checkpoints_in(folder)) {
    const std::string name = path.filename();
    epochs.push_back(name.substr(name.find_first_not_of("epoch-0")));
  }
  return epochs;
}
using Epochs = std::vector<std::string>;

// A run of 20 epochs whose checkpoints 15 and 20 are in @p folder.
auto run_of_twenty(const fs::path& folder) {
  auto trainer = trainer_of();
  trainer.run(20, cf::Checkpoint{.directory = folder, .every = 5, .keep = 2});
  return trainer.run_number();
}

// What resume() takes from a folder: the run and the epoch.
std::pair<std::int64_t, std::int64_t> resumed_from(const fs::path& folder) {
  auto trainer = trainer_of();
  REQUIRE(cf::resume(trainer, folder));
  return {trainer.run_number(), trainer.epoch()};
}

// An observer that is to write only if the run is not refused.
struct Pen {
  fs::path path;
  void start(const cf::RunInfo&) const { fs::remove(path); }
  void operator()(const cf::EpochReport&) const {}
};

}  // namespace

TEST_CASE("epochs that learn nothing do not push out the checkpoints of those that did") {
  struct Sometimes {
    std::shared_ptr<bool> works = std::make_shared<bool>(true);
    cf::Tensor operator()(const cf::Tensor& x0) const {
      return *works ? x0.select(1, 0) : at::full({x0.size(0)}, std::nan(""));
    }
  };
  const Sometimes reward;
  cf::Trainer trainer(
      cf::SnapshotPolicy(cf::MlpVelocity({.width = 16, .depth = 2})), cf::DpmSolver<2>{}, reward,
      cf::Nft{},
      cf::Collection{.prompts_per_epoch = 2, .group_size = 3, .grid = cf::uniform_grid(4)});
  const TemporaryDirectory directory;
  const auto break_at = [&](const cf::EpochReport& report) { *reward.works = report.epoch < 3; };
  trainer.run(7, break_at, cf::Checkpoint{.directory = directory.path(), .every = 1});
  CHECK(trainer.gradient_steps() == 3);
  const auto kept = cf::checkpoints_in(directory.path());
  REQUIRE(kept.size() == 2);
  CHECK(kept[0].filename() == "epoch-00000002");
  CHECK(kept[1].filename() == "epoch-00000003");
}

TEST_CASE("a run that is not the continuation of a folder's is refused, and nothing is touched") {
  const TemporaryDirectory folder;
  const std::int64_t old = run_of_twenty(folder / "run");
  std::ofstream(folder / "notes") << "of the first";
  auto fresh = trainer_of();
  laws::check_error(
      [&] {
        fresh.run(10, Pen{folder / "notes"},
                  cf::Checkpoint{.directory = folder / "run", .every = 5});
      },
      (folder / "run").string(), "epoch 20 of another run");
  CHECK(fresh.epoch() == 0);
  CHECK(fs::exists(folder / "notes"));
  CHECK(epochs_in(folder / "run") == Epochs{"15", "20"});
  CHECK(resumed_from(folder / "run") == std::pair(old, std::int64_t{20}));

  // A run that has gone on from elsewhere, for as long as the folder has none that it follows.
  auto fork = trainer_of();
  cf::load_checkpoint(fork, cf::checkpoints_in(folder / "run").back());
  cf::TrainerState state = fork.state();
  state.counts["epoch"] = 10;
  fork.load(state);
  laws::check_error([&] { fork.run(12, cf::Checkpoint{.directory = folder / "run"}); },
                    (folder / "run").string(), "epoch 20, and none that epoch 11 would follow");
}

TEST_CASE("a run that begins anew loses nothing of the other before it has something of its own") {
  const TemporaryDirectory folder;
  const std::int64_t old = run_of_twenty(folder.path());
  auto fresh = trainer_of();
  const auto look = [&](const cf::EpochReport& report) {
    const auto [run, epoch] = resumed_from(folder.path());
    CHECK(run == (report.epoch <= 5 ? old : fresh.run_number()));
    CHECK(epoch == (report.epoch <= 5 ? 20 : 5));
  };
  const cf::Checkpoint anew{.directory = folder.path(), .every = 5, .anew = true};
  fresh.run(8, look, cf::Checkpoint(anew));
  CHECK(epochs_in(folder.path()) == Epochs{"5", "8"});

  // The word may stay when the run is resumed.
  auto resumed = trainer_of();
  REQUIRE(cf::resume(resumed, folder.path()));
  resumed.run(9, cf::Checkpoint(anew));
  CHECK(epochs_in(folder.path()) == Epochs{"8", "9"});
  CHECK(resumed_from(folder.path()) == std::pair(fresh.run_number(), std::int64_t{9}));
}

TEST_CASE("a run that was killed before it could remove another's is the one that is resumed") {
  const TemporaryDirectory folder;
  run_of_twenty(folder.path());
  auto fresh = trainer_of();
  fresh.run(1);
  cf::save_checkpoint(fresh, folder.path());
  CHECK(epochs_in(folder.path()) == Epochs{"15", "20", "1"});
  auto resumed = trainer_of();
  REQUIRE(cf::resume(resumed, folder.path()));
  CHECK(resumed.run_number() == fresh.run_number());
  resumed.run(2, cf::Checkpoint{.directory = folder.path()});
  CHECK(epochs_in(folder.path()) == Epochs{"1", "2"});
}

TEST_CASE("two calls of run are one run") {
  const TemporaryDirectory folder;
  auto trainer = trainer_of();
  const std::int64_t run = trainer.run_number();
  trainer.run(3, cf::Checkpoint{.directory = folder.path(), .every = 2});
  trainer.run(6, cf::Checkpoint{.directory = folder.path(), .every = 2});
  CHECK(trainer.run_number() == run);
  CHECK(epochs_in(folder.path()) == Epochs{"4", "6"});
  // One more that has nothing to do writes nothing.
  const auto before = fs::last_write_time(folder.path() / "epoch-00000006");
  trainer.run(6, cf::Checkpoint{.directory = folder.path(), .every = 2});
  CHECK(fs::last_write_time(folder.path() / "epoch-00000006") == before);
}

TEST_CASE("a run that goes on from an older checkpoint of its own replaces the newer ones") {
  const TemporaryDirectory folder;
  const std::int64_t old = run_of_twenty(folder.path());
  auto older = trainer_of();
  cf::load_checkpoint(older, folder.path() / "epoch-00000015");

  SECTION("but not before it has come as far as its first") {
    older.run(15, cf::Checkpoint{.directory = folder.path()});
    CHECK(epochs_in(folder.path()) == Epochs{"15", "20"});
  }
  SECTION("whether it stops before them") {
    older.run(17, cf::Checkpoint{.directory = folder.path(), .every = 5, .keep = 3});
    CHECK(epochs_in(folder.path()) == Epochs{"15", "17"});
    CHECK(resumed_from(folder.path()) == std::pair(old, std::int64_t{17}));
  }
  SECTION("or passes them") {
    older.run(22, cf::Checkpoint{.directory = folder.path(), .every = 11, .keep = 3});
    CHECK(epochs_in(folder.path()) == Epochs{"15", "22"});
  }
  SECTION("and one that was killed before it could remove them goes on from its own") {
    older.run(16);
    cf::save_checkpoint(older, folder.path());
    CHECK(resumed_from(folder.path()) == std::pair(old, std::int64_t{16}));
  }
}

TEST_CASE("a damaged checkpoint neither counts as kept nor hides whose the folder is") {
  const TemporaryDirectory folder;
  auto trainer = trainer_of();
  trainer.run(3, cf::Checkpoint{.directory = folder.path(), .every = 1, .keep = 3});
  const std::string file = GENERATE("optimizer.safetensors", "state.safetensors");
  INFO(file);
  fs::resize_file(folder.path() / "epoch-00000003" / file, 10);
  auto second = trainer_of();
  CHECK_THROWS_AS(second.run(5, cf::Checkpoint{.directory = folder.path()}), cf::Error);
  REQUIRE(cf::resume(second, folder.path()));
  second.run(5, cf::Checkpoint{.directory = folder.path(), .every = 5, .keep = 2});
  CHECK(epochs_in(folder.path()) == Epochs{"2", "5"});

  for (const auto& path : cf::checkpoints_in(folder.path())) {
    fs::resize_file(path / "state.safetensors", 10);
  }
  laws::check_error([&] { trainer_of().run(5, cf::Checkpoint{.directory = folder.path()}); },
                    folder.path().string(), "all damaged");
}

TEST_CASE("a run that finds another writing into its folder ends, and leaves that one's") {
  const TemporaryDirectory folder;
  auto first = trainer_of(), second = trainer_of();
  const auto intruder = [&](const cf::EpochReport& report) {
    if (report.epoch == 2) cf::save_checkpoint(second, folder.path());
  };
  laws::check_error(
      [&] { first.run(4, intruder, cf::Checkpoint{.directory = folder.path(), .every = 3}); },
      folder.path().string(), "epoch 0 of another run");
  CHECK(resumed_from(folder.path()).first == second.run_number());
}

TEST_CASE("a folder that cannot be read or written is refused before the first epoch") {
  const TemporaryDirectory folder;
  std::ofstream(folder / "file") << "in the way";
  auto trainer = trainer_of();
  laws::check_error([&] { trainer.run(1, cf::Checkpoint{.directory = folder / "file"}); },
                    (folder / "file").string(), "Not a directory");
  laws::check_error([&] { cf::resume(trainer, folder / "file"); }, (folder / "file").string(),
                    "a folder that can be read");
  laws::check_error([&] { trainer.run(1, cf::Checkpoint{.directory = "/proc/self"}); },
                    "/proc/self", "a folder that can be written");
  CHECK(trainer.epoch() == 0);
}

TEST_CASE("which run it is changes nothing of what is trained, and old checkpoints have none") {
  auto one = trainer_of(), other = trainer_of();
  CHECK(one.run_number() != other.run_number());
  CHECK(one.run_number() > 0);
  one.run(2);
  other.run(2);
  check_same_bits(one, other);

  const TemporaryDirectory folder;
  cf::TrainerState state = one.state();
  state.counts.erase("run");
  other.load(state);
  CHECK(other.run_number() == 0);
  cf::save_checkpoint(other, folder.path());
  auto fresh = trainer_of();
  CHECK_THROWS_AS(fresh.run(1, cf::Checkpoint{.directory = folder.path()}), cf::Error);
  REQUIRE(cf::resume(fresh, folder.path()));
  fresh.run(3, cf::Checkpoint{.directory = folder.path()});
  CHECK(epochs_in(folder.path()) == Epochs{"2", "3"});
}

TEST_CASE("a full disk is an error, and leaves the checkpoint before") {
  const TemporaryDirectory folder;
  auto trainer = trainer_of();
  trainer.run(1, cf::Checkpoint{.directory = folder.path(), .every = 1});
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, SIG_IGN);
  // Every limit of a file's size is a disk that is full at another byte.
  for (rlim_t limit = 0; limit < 60000; limit += 1500) {
    const rlimit small_files{limit, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small_files);
    bool is_error = false;
    try {
      cf::save_checkpoint(trainer, folder.path() / "other");
    } catch (const cf::Error&) {
      is_error = true;
    }
    setrlimit(RLIMIT_FSIZE, &before);
    const auto written = cf::checkpoints_in(folder.path() / "other");
    CHECK(is_error == written.empty());
    if (!is_error) break;
  }
  CHECK_FALSE(cf::damage_of(folder.path() / "epoch-00000001"));
}

TEST_CASE("resuming says whether there was anything to resume") {
  const TemporaryDirectory folder;
  auto trainer = trainer_of();
  CHECK_FALSE(cf::resume(trainer, folder.path()));
  CHECK_FALSE(cf::resume(trainer, folder.path() / "missing"));
}

TEST_CASE("a run goes on from the newest checkpoint that is whole") {
  const TemporaryDirectory folder;
  auto trainer = trainer_of();
  trainer.run(3, cf::Checkpoint{.directory = folder.path(), .every = 1, .keep = 3});
  const auto checkpoints = cf::checkpoints_in(folder.path());
  REQUIRE(checkpoints.size() == 3);
  const auto change_byte = [](const fs::path& path, std::int64_t place) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(place);
    const int byte = file.get();
    file.seekp(place);
    file.put(char(byte ^ 1));
  };
  const std::vector<std::function<void(const fs::path&)>> damages{
      [](const fs::path& path) { fs::resize_file(path / "optimizer.safetensors", 100); },
      [](const fs::path& path) { fs::resize_file(path / "optimizer.safetensors", 0); },
      [](const fs::path& path) { fs::resize_file(path / "state.safetensors", 1000); },
      [](const fs::path& path) { fs::remove(path / "state.safetensors"); },
      [](const fs::path& path) { fs::remove(path / "optimizer.safetensors"); },
      [](const fs::path& path) { fs::remove(path / "checksums.json"); },
      [](const fs::path& path) { fs::resize_file(path / "checksums.json", 5); },
      [&](const fs::path& path) {
        change_byte(path / "optimizer.safetensors",
                    std::int64_t(fs::file_size(path / "optimizer.safetensors")) / 2);
      },
      [&](const fs::path& path) {
        change_byte(path / "state.safetensors",
                    std::int64_t(fs::file_size(path / "state.safetensors")) - 1);
      }};
  for (std::size_t i = 0; i < damages.size(); ++i) {
    INFO("damage " << i);
    const TemporaryDirectory copy;
    fs::copy(folder.path(), copy.path(), fs::copy_options::recursive);
    const auto damage = [&](int epoch) {
      damages[i](copy.path() / ("epoch-0000000" + std::to_string(epoch)));
    };
    damage(3);
    auto resumed = trainer_of(2);
    std::vector<std::string> warnings;
    const auto warn = [&](const cf::Warning& w) { warnings.push_back(w.message); };
    CHECK(cf::resume(resumed, copy.path(), warn));
    CHECK(resumed.epoch() == 2);
    REQUIRE(warnings.size() == 1);
    CHECK_THAT(warnings[0], ContainsSubstring("epoch-00000003 is damaged"));
    resumed.run(3);
    check_same_bits(resumed, trainer);
    // And where there is none that is whole, that is an error and not a fresh start.
    damage(1);
    damage(2);
    laws::check_error([&] { cf::resume(resumed, copy.path()); }, copy.path().string(), "3 damaged");
  }
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
    fs::resize_file(checkpoint / "optimizer.safetensors", 10);
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
