// Pictures of reports as files.

#include <filesystem>
#include <set>
#include <string>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/observe/concept.hpp>
#include <contraflow/observe/picture_files.hpp>

#include "laws/errors.hpp"
#include "temporary_directory.hpp"

namespace cf = contraflow;
using laws::check_error;

namespace {

static_assert(cf::Observer<cf::PictureFiles>);

cf::EpochReport report_of(std::int64_t epoch, std::vector<cf::Picture> pictures) {
  cf::EpochReport report;
  report.epoch = epoch;
  report.pictures = std::move(pictures);
  return report;
}

std::set<std::string> files_below(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) names.insert(entry.path().lexically_relative(folder).string());
  }
  return names;
}

}  // namespace

TEST_CASE("each picture becomes a file of its name and epoch, with its bytes") {
  const TemporaryDirectory folder;
  const cf::PictureFiles files{folder / "pictures"};
  files(report_of(1, {}));
  CHECK(files_below(folder.path()).empty());
  files(report_of(2, {{"samples", "one", 1, 1}, {"evaluation/sheet", "two", 1, 1}}));
  files(report_of(123456, {{"samples", "three", 1, 1}}));
  CHECK(files_below(folder / "pictures") == std::set<std::string>{"samples-00002.png",
                                                                  "evaluation/sheet-00002.png",
                                                                  "samples-123456.png"});
  CHECK(read_all(folder / "pictures/evaluation/sheet-00002.png") == "two");
  files(report_of(2, {{"samples", "again", 1, 1}}));
  CHECK(read_all(folder / "pictures/samples-00002.png") == "again");
}

TEST_CASE("a picture's name does not lead out of the directory") {
  const TemporaryDirectory folder;
  const cf::PictureFiles files{folder / "pictures"};
  for (const std::string name : {"../x", "a/../../x", "/x", "", "a/"}) {
    check_error([&] { files(report_of(1, {{name, "one", 1, 1}})); }, "picture", "within");
  }
  CHECK(files_below(folder.path()).empty());
}

TEST_CASE("a folder that cannot be made is an error that names the file") {
  const TemporaryDirectory folder;
  write_all(folder / "taken", "");
  const cf::PictureFiles files{folder / "taken"};
  check_error(
      [&] {
        files(report_of(1, {{"samples", "one", 1, 1}}));
      },
      (folder / "taken/samples-00001.png").string(), "a folder");
}
