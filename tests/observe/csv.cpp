#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/observe/csv.hpp>

#include "temporary_directory.hpp"

namespace cf = contraflow;

namespace {

cf::EpochReport report(std::int64_t epoch, std::vector<cf::Metric> metrics) {
  return {.epoch = epoch,
          .gradient_steps = 2 * epoch,
          .forward_evaluations = 30 * epoch,
          .backward_evaluations = 10 * epoch,
          .seconds = 0.1 * static_cast<double>(epoch),
          .metrics = std::move(metrics)};
}

const std::string fixed = "epoch,gradient_steps,forward_evaluations,backward_evaluations,seconds";

}  // namespace

TEST_CASE("Csv writes a header and a row an epoch, byte for byte", "[observe]") {
  const TemporaryDirectory directory;
  cf::Csv csv{directory / "run.csv"};
  csv.start({.first_epoch = 1, .last_epoch = 2});
  csv(report(1, {{"reward/mean", 1.0 / 3.0}, {"loss", -2}}));
  CHECK(read_all(directory / "run.csv") ==
        fixed + ",reward/mean,loss\n1,2,30,10,0.1,0.3333333333333333,-2\n");
  csv(report(2, {{"loss", 1e-300}}));
  csv.finish({});
  CHECK(read_all(directory / "run.csv") == fixed +
                                               ",reward/mean,loss\n"
                                               "1,2,30,10,0.1,0.3333333333333333,-2\n"
                                               "2,4,60,20,0.2,,1e-300\n");
}

TEST_CASE("Csv tells an absent metric from one that is not finite", "[observe]") {
  const TemporaryDirectory directory;
  cf::Csv csv{directory / "run.csv"};
  csv.start({});
  const double infinity = std::numeric_limits<double>::infinity();
  csv(report(1, {{"a", -std::nan("")}, {"b", infinity}, {"c", -infinity}, {"d", 1}}));
  csv(report(2, {}));
  CHECK(read_all(directory / "run.csv") ==
        fixed + ",a,b,c,d\n1,2,30,10,0.1,nan,inf,-inf,1\n2,4,60,20,0.2,,,,\n");
}

TEST_CASE("Csv widens its table for metrics that come up later", "[observe]") {
  const TemporaryDirectory directory;
  const auto path = directory / "run.csv";
  cf::Csv csv{path};
  csv.start({});
  csv(report(1, {{"a", 1}}));
  csv(report(2, {{"b, \"quoted\"\n", 2}, {"a", 3}, {"c", 4}}));
  csv(report(3, {{"c", 5}}));
  CHECK(read_all(path) == fixed +
                              ",a,\"b, \"\"quoted\"\"\n\",c\n"
                              "1,2,30,10,0.1,1,,\n"
                              "2,4,60,20,0.2,3,2,4\n"
                              "3,6,90,30,0.30000000000000004,,,5\n");
  // Nothing is left beside it.
  CHECK(std::distance(std::filesystem::directory_iterator(directory.path()), {}) == 1);

  cf::Csv resumed{path};
  resumed.start({.first_epoch = 4, .last_epoch = 4});
  resumed(report(4, {{"d", 6}, {"b, \"quoted\"\n", 7}}));
  CHECK(read_all(path) == fixed +
                              ",a,\"b, \"\"quoted\"\"\n\",c,d\n"
                              "1,2,30,10,0.1,1,,,\n"
                              "2,4,60,20,0.2,3,2,4,\n"
                              "3,6,90,30,0.30000000000000004,,,5,\n"
                              "4,8,120,40,0.4,,7,,6\n");
}

TEST_CASE("Csv replaces the file of an earlier run and continues that of a resumed one",
          "[observe]") {
  const TemporaryDirectory directory;
  const auto path = directory / "run.csv";
  const auto after = [&](cf::Csv csv, cf::RunInfo info) {
    csv.start(info);
    csv(report(info.first_epoch, {{"a", 1}}));
    return read_all(path);
  };
  const std::string first = fixed + ",a\n1,2,30,10,0.1,1\n";
  CHECK(after(cf::Csv{path}, {.first_epoch = 1}) == first);
  CHECK(after(cf::Csv{path}, {.first_epoch = 1}) == first);
  CHECK(after(cf::Csv{path}, {.first_epoch = 2}) == first + "2,4,60,20,0.2,1\n");
  write_all(path, first + "2,4,6");
  CHECK(after(cf::Csv{path, {.append = true}}, {.first_epoch = 1}) == first + "1,2,30,10,0.1,1\n");
}

TEST_CASE("every epoch of a run that was interrupted and resumed has one row in Csv", "[observe]") {
  const TemporaryDirectory directory;
  const auto path = directory / "run.csv";
  const auto run = [&](std::int64_t first, std::int64_t last, double a, bool append = false) {
    cf::Csv csv{path, {.append = append}};
    csv.start({.first_epoch = first, .last_epoch = 9});
    for (std::int64_t epoch = first; epoch <= last; ++epoch) {
      csv(report(epoch, {{"a\n9,\"9\"", a}}));
    }
  };
  // The epochs and their metric, and that the header is whole.
  const auto rows = [&] {
    const std::string content = read_all(path), header = fixed + ",\"a\n9,\"\"9\"\"\"\n";
    CHECK(content.starts_with(header));
    std::istringstream stream(content.substr(header.size()));
    std::string all;
    for (std::string row; std::getline(stream, row);) {
      all += row.substr(0, row.find(',')) + row.substr(row.rfind(',')) + ' ';
    }
    return all;
  };
  run(1, 4, 1);
  const std::string whole = read_all(path);
  write_all(path, whole + "5,10,1");
  run(3, 5, 2);
  CHECK(rows() == "1,1 2,1 3,2 4,2 5,2 ");
  CHECK(read_all(path).starts_with(whole.substr(0, whole.find("\n3,") + 1)));
  run(6, 6, 3);
  CHECK(rows() == "1,1 2,1 3,2 4,2 5,2 6,3 ");
  run(2, 4, 4);
  CHECK(rows() == "1,1 2,4 3,4 4,4 ");
  run(1, 3, 5, /*append=*/true);
  run(3, 4, 6, /*append=*/true);  // the latest run of the file is resumed
  CHECK(rows() == "1,1 2,4 3,4 4,4 1,5 2,5 3,6 4,6 ");
  CHECK(std::distance(std::filesystem::directory_iterator(directory.path()), {}) == 1);
}

TEST_CASE("Csv follows a link when it widens the file", "[observe]") {
  const TemporaryDirectory directory;
  std::filesystem::create_symlink("real.csv", directory / "link.csv");
  cf::Csv csv{directory / "link.csv"};
  csv.start({});
  csv(report(1, {{"a", 1}}));
  CHECK(std::filesystem::is_symlink(directory / "link.csv"));
  CHECK(read_all(directory / "real.csv") == fixed + ",a\n1,2,30,10,0.1,1\n");
}

TEST_CASE("Csv refuses to continue what is not its table", "[observe]") {
  const TemporaryDirectory directory;
  const auto path = directory / "run.csv";
  for (const std::string& content :
       {std::string("x,y\n1,2\n"), fixed + "\r\n", fixed + ",a\r\n", fixed + "_more\n"}) {
    write_all(path, content);
    cf::Csv csv{path};
    CHECK_THROWS_AS(csv.start({.first_epoch = 2, .last_epoch = 3}), cf::Error);
    CHECK(read_all(path) == content);
  }
  cf::Csv device{"/dev/null"};
  CHECK_THROWS_AS(device.start({}), cf::Error);
  cf::Csv no_file{directory.path()};
  CHECK_THROWS_AS(no_file.start({}), cf::Error);
}
