#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <contraflow/observe/picture_files.hpp>

#include "temporary_directory.hpp"

namespace cf = contraflow;

namespace {

const std::string png = "\x89PNG\r\n\x1a\n" + std::string("one\0two", 7);

/// The names of the files that one epoch with pictures of these names leaves.
std::vector<std::string> files_of(const std::vector<std::string>& names, std::int64_t epoch = 7) {
  const TemporaryDirectory directory;
  cf::PictureFiles files{directory / "a/pictures"};
  files.start({.first_epoch = 1, .last_epoch = 9});
  cf::EpochReport report{.epoch = epoch};
  for (const std::string& name : names) report.pictures.push_back({name, png + name, 3, 2});
  files(report);
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory.path())) {
    if (entry.is_directory()) continue;
    CHECK(read_all(entry.path()).starts_with(png));
    found.push_back(entry.path().lexically_relative(directory / "a/pictures").string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("PictureFiles writes a file a picture and epoch", "[observe]") {
  const TemporaryDirectory directory;
  cf::PictureFiles files{.directory = directory.path()};
  files.start({.first_epoch = 1, .last_epoch = 9});
  files({.epoch = 1});
  CHECK(std::filesystem::is_empty(directory.path()));
  files({.epoch = 2, .pictures = {{"samples", png, 3, 2}, {"arm", png + "2", 3, 2}}});
  files({.epoch = 10, .pictures = {{"samples", png + "3", 3, 2}}});
  CHECK(read_all(directory / "samples-00002.png") == png);
  CHECK(read_all(directory / "arm-00002.png") == png + "2");
  CHECK(read_all(directory / "samples-00010.png") == png + "3");
  files({.epoch = 2, .pictures = {{"samples", png + "4", 3, 2}}});  // of a run that was resumed
  CHECK(read_all(directory / "samples-00002.png") == png + "4");
  CHECK(std::distance(std::filesystem::directory_iterator(directory.path()), {}) == 3);
}

TEST_CASE("PictureFiles makes names of files that are safe and differ", "[observe]") {
  CHECK(files_of({"evaluation/samples"}) == Names{"evaluation/samples-00007.png"});
  CHECK(files_of({"../../etc/x", "/root", "..", "", "/", "a b\n\x01*?", "a//./b/"}) ==
        Names{"_.-00007.png", "_./_./etc/x-00007.png", "a/_/b-00007.png", "a_b____-00007.png",
              "picture-00007.png", "picture-2-00007.png", "root-00007.png"});
  CHECK(files_of({"x*y", "x?y", "x*y"}) ==
        Names{"x_y-00007.png", "x_y-2-00007.png", "x_y-3-00007.png"});
  CHECK(files_of({std::string(1000, 'x')}) == Names{std::string(200, 'x') + "-00007.png"});
  CHECK(files_of({"x"}, 123456789) == Names{"x-123456789.png"});
}

TEST_CASE("PictureFiles says in a sentence what it cannot write", "[observe]") {
  const TemporaryDirectory directory;
  write_all(directory / "file", "");
  CHECK_THROWS_WITH(cf::PictureFiles{directory / "file/x"}.start({}),
                    Catch::Matchers::StartsWith((directory / "file/x").string() +
                                                ": expected a "
                                                "directory that exists or can be made"));
  CHECK_THROWS_WITH(cf::PictureFiles{}.start({}),
                    "PictureFiles.directory: expected a folder for pictures, got nothing");
  cf::PictureFiles files{directory / "pictures"};
  files.start({});
  CHECK_THROWS_WITH(files({.epoch = 1, .pictures = {{"samples", "GIF89a", 3, 2}}}),
                    "picture samples: expected the bytes of a PNG file, got 6 bytes that begin "
                    "otherwise");
  CHECK_THROWS_AS(files({.epoch = 1, .pictures = {{"samples", png, 3, 0}}}), cf::Error);
  CHECK(std::filesystem::is_empty(directory / "pictures"));
  std::filesystem::remove_all(directory / "pictures");
  write_all(directory / "pictures", "");
  CHECK_THROWS_WITH(files({.epoch = 1, .pictures = {{"samples", png, 3, 2}}}),
                    Catch::Matchers::StartsWith(
                        (directory / "pictures/samples-00001.png").string() + ": expected"));
}
