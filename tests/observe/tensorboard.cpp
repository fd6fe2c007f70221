#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <sys/wait.h>
#include <unistd.h>

#include <contraflow/observe/tensorboard.hpp>

#include "temporary_directory.hpp"

namespace cf = contraflow;

namespace {

std::vector<std::filesystem::path> files(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) paths.push_back(entry);
  return paths;
}

/// The events of a file without their wall times, which differ from run to run. Checks framing.
std::vector<std::string> events(const std::filesystem::path& path) {
  const std::string content = read_all(path);
  std::vector<std::string> found;
  for (std::size_t begin = 0; begin < content.size();) {
    std::uint64_t length = 0;
    REQUIRE(content.size() >= begin + 12);
    std::memcpy(&length, content.data() + begin, sizeof(length));
    REQUIRE(content.size() >= begin + 16 + length);
    const std::string data = content.substr(begin + 12, length);
    CHECK(content.substr(begin, 16 + length) == cf::tfevents::record(data));
    CHECK(data[0] == '\x09');
    found.push_back(data.substr(9));
    begin += 16 + length;
  }
  return found;
}

std::string event(std::int64_t step, const cf::tfevents::Message& summary) {
  return cf::tfevents::summary_event(0, step, summary).encoded().substr(9);
}

const std::vector<std::uint8_t> png = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

/// Writes two runs, the second of which takes up the first at epoch 2, into @p directory.
void write_runs(const std::filesystem::path& directory) {
  {
    cf::TensorBoard board{directory};
    board.start({.first_epoch = 1, .last_epoch = 3});
    for (std::int64_t epoch = 1; epoch <= 3; ++epoch) {
      board({.epoch = epoch, .metrics = {{"reward/mean", 0.25 * static_cast<double>(epoch)}}});
    }
  }
  cf::TensorBoard board{directory};
  board.start({.first_epoch = 2, .last_epoch = 4});
  board({.epoch = 2,
         .gradient_steps = 20,
         .forward_evaluations = 300,
         .backward_evaluations = 40,
         .seconds = 1.5,
         .metrics = {{"reward/mean", 8}, {"loss", std::numeric_limits<double>::quiet_NaN()}},
         .pictures = {{"of the report", std::string(png.begin(), png.end()), 5, 4}}});
  board.warn({.quantity = "loss", .value = 0, .message = "loss is not finite"});
  board.image("samples", png, 3, 2, 2);
  board.finish({.epochs = 2, .stopped = true, .reason = "enough", .last = {}});
}

}  // namespace

TEST_CASE("TensorBoard writes every metric and the progress of an epoch", "[observe]") {
  using cf::tfevents::Message;
  using cf::tfevents::scalar_value;
  const TemporaryDirectory directory;
  cf::TensorBoard board{directory / "runs/nft"};
  CHECK(!std::filesystem::exists(directory / "runs"));
  board.start({.first_epoch = 1, .last_epoch = 3});
  board({.epoch = 1,
         .gradient_steps = 2,
         .forward_evaluations = 30,
         .backward_evaluations = 4,
         .seconds = 0.5,
         .metrics = {{"reward/mean", 0.25}, {"loss", 2}}});
  board.warn({.quantity = "loss", .value = 2, .message = "loss is 2"});
  board.scalar("mine", 7, 5);
  board.finish({.epochs = 1, .stopped = true, .reason = "enough", .last = {}});
  board.image("samples", png, 3, 2, 1);  // the file outlives the run

  const auto paths = files(directory / "runs/nft");
  REQUIRE(paths.size() == 1);
  const std::string name = paths[0].filename().string();
  CHECK(name.starts_with("events.out.tfevents."));
  CHECK(name.find('.', 20) == 30);  // ten digits of seconds
  CHECK(name.ends_with('.' + std::to_string(getpid())));
  const auto found = events(paths[0]);
  REQUIRE(found.size() == 6);
  CHECK(found[0] == cf::tfevents::version_event(0).encoded().substr(9));
  CHECK(found[1] == event(1, Message()
                                 .message(1, scalar_value("reward/mean", 0.25))
                                 .message(1, scalar_value("loss", 2))
                                 .message(1, scalar_value("progress/gradient_steps", 2))
                                 .message(1, scalar_value("progress/forward_evaluations", 30))
                                 .message(1, scalar_value("progress/backward_evaluations", 4))
                                 .message(1, scalar_value("progress/seconds", 0.5))));
  CHECK(found[2] ==
        event(1, Message().message(1, cf::tfevents::text_value("warning/loss", "loss is 2"))));
  CHECK(found[3] == event(5, Message().message(1, scalar_value("mine", 7))));
  CHECK(found[4] ==
        event(1, Message().message(1, cf::tfevents::text_value("progress/stopped", "enough"))));
  const std::string_view png_text = "\x89PNG\r\n\x1a\n";
  CHECK(found[5] ==
        event(1, Message().message(1, cf::tfevents::image_value("samples", png_text, 3, 2))));
}

TEST_CASE("TensorBoard writes the pictures of a report", "[observe]") {
  using cf::tfevents::image_value;
  using cf::tfevents::Message;
  const TemporaryDirectory directory;
  cf::TensorBoard board{directory.path()};
  board.start({.first_epoch = 1, .last_epoch = 3});
  const std::string first = "\x89PNG\r\n\x1a\n" + std::string("one\0two", 7), second = first + "2";
  board({.epoch = 3, .pictures = {{"samples", first, 3, 2}, {"arm/reach", second, 30, 20}}});
  const auto found = events(files(directory.path()).at(0));
  REQUIRE(found.size() == 4);
  CHECK(found[2] == event(3, Message().message(1, image_value("samples", first, 3, 2))));
  CHECK(found[3] == event(3, Message().message(1, image_value("arm/reach", second, 30, 20))));
  CHECK_THROWS_WITH(board({.epoch = 4, .pictures = {{"samples", "GIF89a", 3, 2}}}),
                    "picture samples: expected the bytes of a PNG file, got 6 bytes that begin "
                    "otherwise");
  CHECK_THROWS_WITH(board({.epoch = 4, .pictures = {{"samples", first, 0, 2}}}),
                    "picture samples: expected a width and a height of pixels > 0, got 0 x 2");
}

TEST_CASE("TensorBoard gives every observer a file of its own", "[observe]") {
  const TemporaryDirectory directory;
  write_runs(directory.path());
  write_runs(directory.path());
  CHECK(files(directory.path()).size() == 4);
}

TEST_CASE("TensorBoard marks where a resumed run begins", "[observe]") {
  const TemporaryDirectory directory;
  cf::TensorBoard board{directory.path()};
  board.start({.first_epoch = 7, .last_epoch = 9});
  const auto found = events(files(directory.path()).at(0));
  // Twice, since the first one that TensorBoard finds in a directory does nothing.
  const std::string mark = cf::tfevents::restart_event(0, 7).encoded().substr(9);
  REQUIRE(found.size() == 3);
  CHECK(found[1] == mark);
  CHECK(found[2] == mark);
}

namespace {

std::string text_event(const std::string& text) {
  using namespace cf::tfevents;
  return event(0, Message().message(1, text_value("about", text)));
}
/// The files that TensorBoard reads.
std::vector<std::filesystem::path> shown(const std::filesystem::path& directory) {
  auto paths = files(directory);
  std::erase_if(paths, [](const auto& path) {
    return path.filename().string().find("tfevents") == std::string::npos;
  });
  return paths;
}
const std::string all_is_dropped = cf::tfevents::restart_event(0, 0).encoded().substr(9);

}  // namespace

TEST_CASE("a run that begins takes the place of earlier ones, and keeps what was written for it",
          "[observe]") {
  const TemporaryDirectory directory;
  const auto run = [&](const std::string& about) {
    cf::TensorBoard board{directory.path()};
    board.text("about", about, 0);
    board.start({.first_epoch = 1, .last_epoch = 3});
    board.finish({});
  };
  run("first");
  const std::string first = read_all(shown(directory.path()).at(0));
  CHECK(events(shown(directory.path()).at(0)).back() == text_event("first"));
  for (const char* about : {"second", "third"}) {
    INFO(about);
    run(about);
    REQUIRE(shown(directory.path()).size() == 1);
    const auto found = events(shown(directory.path())[0]);
    REQUIRE(found.size() == 4);
    CHECK(found[1] == all_is_dropped);
    CHECK(found[2] == all_is_dropped);
    CHECK(found[3] == text_event(about));
  }
  // Nothing is lost: each of the first two, and what was written before two of them began.
  const auto paths = files(directory.path());
  CHECK(paths.size() == 5);
  CHECK(std::any_of(paths.begin(), paths.end(), [&](const auto& path) {
    return read_all(path) == first && path.filename().string().starts_with("events.out.earlier.");
  }));
}

TEST_CASE("so does one of an observer that has seen another run", "[observe]") {
  const TemporaryDirectory directory;
  cf::TensorBoard board{directory.path()};
  const bool is_broken_off = GENERATE(false, true);
  board.text("about", "first", 0);
  board.start({.first_epoch = 1, .last_epoch = 1});
  board({.epoch = 1});
  if (!is_broken_off) board.finish({});
  if (!is_broken_off) board.text("about", "second", 0);
  board.start({.first_epoch = 1, .last_epoch = 1});
  REQUIRE(shown(directory.path()).size() == 1);
  const auto found = events(shown(directory.path())[0]);
  REQUIRE(found.size() == (is_broken_off ? 3 : 4));
  CHECK(found[2] == all_is_dropped);
  if (!is_broken_off) CHECK(found[3] == text_event("second"));
}

TEST_CASE("TensorBoard refuses what is no picture and names a directory it cannot use",
          "[observe]") {
  const TemporaryDirectory directory;
  cf::TensorBoard board{directory.path()};
  const std::vector<std::uint8_t> no_png = {1, 2, 3};
  CHECK_THROWS_AS(board.image("x", no_png, 1, 1, 1), cf::Error);
  CHECK_THROWS_AS(board.image("x", png, 0, 1, 1), cf::Error);
  CHECK_THROWS_AS(board.image("x", png, 1, -1, 1), cf::Error);
  CHECK(files(directory.path()).empty());

  write_all(directory / "file", "");
  cf::TensorBoard blocked{directory / "file"};
  CHECK_THROWS_AS(blocked.start({}), cf::Error);
}

#ifdef CONTRAFLOW_TEST_DATA
TEST_CASE("the tensorboard package reads the files", "[observe]") {
  const auto root = std::filesystem::path(CONTRAFLOW_TEST_DATA) / ".." / "..";
  const TemporaryDirectory directory;
  write_runs(directory / "runs");
  const auto output = directory / "output";
  const auto errors = directory / "errors";
  std::ostringstream command;  // paths are written with quotes around them
  command << root / "scripts/check_tensorboard"
          << " --no-install " << directory / "runs"
          << " > " << output << " 2> " << errors;
  const int status = std::system(command.str().c_str());
  REQUIRE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) SKIP("the tensorboard package is not installed");
  INFO(read_all(errors));
  CHECK(WEXITSTATUS(status) == 0);
  // Epochs 2 and 3 of the first run gave way to those of the second.
  CHECK(read_all(output) ==
        "scalar  loss: 1 value, last nan at step 2\n"
        "scalar  progress/backward_evaluations: 2 values, last 40 at step 2\n"
        "scalar  progress/forward_evaluations: 2 values, last 300 at step 2\n"
        "scalar  progress/gradient_steps: 2 values, last 20 at step 2\n"
        "scalar  progress/seconds: 2 values, last 1.5 at step 2\n"
        "scalar  reward/mean: 2 values, last 8 at step 2\n"
        "image   of the report: 1 value, last 5 x 4 at step 2\n"
        "image   samples: 1 value, last 3 x 2 at step 2\n"
        "text    progress/stopped: 1 value, last 'enough' at step 2\n"
        "text    warning/loss: 1 value, last 'loss is not finite' at step 2\n");
}
#endif
