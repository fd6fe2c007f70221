// Disks that are full for a while, or for good: a run goes on, and what was written stays whole.

#include "observe/full_disk.hpp"

#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>
#include <sys/mount.h>

#include <contraflow/observe/csv.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/picture_files.hpp>
#include <contraflow/observe/tensorboard.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "observe/temporary_directory.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
namespace fs = std::filesystem;

namespace {

auto trainer() {
  return small::trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, small::options());
}

/// The epochs of a file, each of whose lines is an object.
std::vector<int> epochs_in(const fs::path& path) {
  std::istringstream lines(read_all(path));
  std::vector<int> epochs;
  for (std::string line; std::getline(lines, line);) {
    const auto object = nlohmann::json::parse(line);
    if (object["kind"] == "epoch") epochs.push_back(object["epoch"]);
  }
  return epochs;
}

/// Counts warnings by their quantity.
struct Warnings {
  std::vector<std::string>* told;
  void operator()(const cf::EpochReport&) const {}
  void warn(const cf::Warning& warning) const {
    if (warning.quantity == "observer/failed") told->push_back(warning.message);
  }
};

}  // namespace

TEST_CASE("a disk that is full for a while costs the records of that while") {
  const TemporaryDirectory folder;
  auto undisturbed = trainer(), run = trainer();
  undisturbed.run(6);
  std::vector<std::string> told;
  FullDisk disk(RLIM_INFINITY);
  const auto fills = [&](const cf::EpochReport& report) {
    if (report.epoch == 2) disk.set(fs::file_size(folder / "run.jsonl") + 40);
    if (report.epoch == 4) disk.lift();
  };
  const cf::RunReport report =
      run.run(6, fills, cf::JsonLines{folder / "run.jsonl"}, Warnings{&told},
              cf::Checkpoint{.directory = folder / "checkpoints", .every = 1, .keep = 9});
  CHECK(report.epochs == 6);
  CHECK(epochs_in(folder / "run.jsonl") == std::vector<int>{1, 4, 5, 6});
  CHECK(cf::checkpoints_in(folder / "checkpoints").size() == 4);
  // Each of the two said so once.
  REQUIRE(told.size() == 2);
  CHECK(told[0].find("run.jsonl") != std::string::npos);
  CHECK(told[1].find("epoch-00000002") != std::string::npos);
  const auto left = run.policy().state(), right = undisturbed.policy().state();
  for (const auto& [name, tensor] : left) CHECK(at::equal(tensor, right.at(name)));
}

TEST_CASE("a disk without room for another checkpoint keeps the newest alone") {
  const TemporaryDirectory folder;
  auto run = trainer();
  std::uintmax_t pages = 0;
  for (const auto& file : fs::directory_iterator(cf::save_checkpoint(run, folder / "measured"))) {
    pages += file.file_size() / 4096 + 1;
  }
  fs::create_directories(folder / "disk");
  const std::string size = "size=" + std::to_string(pages * 4096 * 27 / 10);
  if (::mount("tmpfs", (folder / "disk").c_str(), "tmpfs", 0, size.c_str()) != 0) {
    SKIP("no file system can be mounted here");
  }
  std::vector<std::string> told;
  const cf::Checkpoint checkpoint{.directory = folder / "disk", .every = 1, .keep = 2};
  const cf::RunReport report = run.run(6, Warnings{&told}, cf::Checkpoint(checkpoint));
  const auto kept = cf::checkpoints_in(folder / "disk");
  std::vector<std::string> damages;
  for (const auto& path : kept) damages.push_back(cf::damage_of(path).value_or(""));
  ::umount((folder / "disk").c_str());
  CHECK(report.epochs == 6);
  CHECK(told.empty());
  REQUIRE(!kept.empty());
  CHECK(kept.back().filename() == "epoch-00000006");
  CHECK(damages.back().empty());
}

TEST_CASE("a disk that stays full ends a run at its last epoch with a sentence") {
  const TemporaryDirectory folder;
  auto undisturbed = trainer();
  undisturbed.run(3);
  for (rlim_t bytes = 0; bytes < 6000; bytes += 397) {
    INFO(bytes);
    fs::remove_all(folder / "run");
    auto run = trainer();
    run.run(1, cf::Checkpoint{.directory = folder / "run", .every = 1});
    FullDisk disk(RLIM_INFINITY);
    const auto fills = [&](const cf::EpochReport& report) {
      if (report.epoch == 2) disk.set(bytes);
    };
    int finished = 0;
    struct Finish {
      int* finished;
      void operator()(const cf::EpochReport&) const {}
      void finish(const cf::RunReport&) const { ++*finished; }
    };
    CHECK_THROWS_AS(
        run.run(3, fills, cf::JsonLines{folder / "run/run.jsonl"}, cf::Csv{folder / "run/run.csv"},
                cf::TensorBoard{folder / "run/board"},
                cf::Checkpoint{.directory = folder / "run", .every = 1}, Finish{&finished}),
        cf::WriteError);
    disk.lift();
    CHECK(run.epoch() == 3);
    CHECK(finished == 1);
    epochs_in(folder / "run/run.jsonl");
    auto resumed = trainer();
    REQUIRE(cf::resume(resumed, folder / "run"));
    CHECK(resumed.epoch() == 1);
    resumed.run(3);
    const auto left = resumed.policy().state(), right = undisturbed.policy().state();
    for (const auto& [name, tensor] : left) CHECK(at::equal(tensor, right.at(name)));
  }
}
