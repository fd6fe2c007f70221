#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/observe/json_lines.hpp>

#include "temporary_directory.hpp"

namespace cf = contraflow;

namespace {

std::vector<nlohmann::json> parsed_lines(const std::string& text) {
  std::vector<nlohmann::json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

cf::EpochReport report(std::int64_t epoch) {
  return {.epoch = epoch,
          .gradient_steps = 2 * epoch,
          .forward_evaluations = 3 * epoch,
          .backward_evaluations = epoch,
          .seconds = 0.5,
          .metrics = {{"reward/mean", 0.1}, {"loss", 2.0}}};
}

}  // namespace

TEST_CASE("JsonLines writes a line a report, byte for byte", "[observe]") {
  const TemporaryDirectory directory;
  cf::JsonLines lines{directory / "run.jsonl"};
  lines.start({.first_epoch = 1, .last_epoch = 2});
  lines(report(1));
  lines.warn({.quantity = "velocity_norm", .value = 9.5, .message = "it \"grew\"\n"});
  const std::string expected =
      R"({"kind":"start","first_epoch":1,"last_epoch":2})"
      "\n"
      R"({"kind":"epoch","epoch":1,"gradient_steps":2,"forward_evaluations":3,)"
      R"("backward_evaluations":1,"seconds":0.5,"metrics":{"reward/mean":0.1,"loss":2.0}})"
      "\n"
      R"({"kind":"warning","quantity":"velocity_norm","value":9.5,"message":"it \"grew\"\n"})"
      "\n";
  CHECK(read_all(directory / "run.jsonl") == expected);  // while the run goes on
  lines.finish({.epochs = 1, .stopped = true, .reason = "enough", .last = report(1)});
  CHECK(read_all(directory / "run.jsonl") ==
        expected + R"({"kind":"finish","epochs":1,"stopped":true,"reason":"enough"})" + "\n");
}

TEST_CASE("JsonLines keeps every digit and shows what is not finite as null", "[observe]") {
  const TemporaryDirectory directory;
  cf::JsonLines lines{directory / "run.jsonl"};
  cf::EpochReport odd = report(1);
  odd.metrics = {{"third", 1.0 / 3.0},
                 {"tiny", std::numeric_limits<double>::denorm_min()},
                 {"nan", std::nan("")},
                 {"inf", std::numeric_limits<double>::infinity()},
                 {"bad \xff name", 1.0}};
  odd.forward_evaluations = std::numeric_limits<std::int64_t>::max();
  lines.start({});
  lines(odd);
  const auto line = parsed_lines(read_all(directory / "run.jsonl")).at(1);
  CHECK(line["metrics"]["third"].get<double>() == 1.0 / 3.0);
  CHECK(line["metrics"]["tiny"].get<double>() == std::numeric_limits<double>::denorm_min());
  CHECK(line["metrics"]["nan"].is_null());
  CHECK(line["metrics"]["inf"].is_null());
  CHECK(line["metrics"].size() == 5);
  CHECK(line["forward_evaluations"].get<std::int64_t>() ==
        std::numeric_limits<std::int64_t>::max());
}

TEST_CASE("JsonLines replaces the file of an earlier run and continues that of a resumed one",
          "[observe]") {
  const TemporaryDirectory directory;
  const auto path = directory / "run.jsonl";
  const auto lines_after = [&](cf::JsonLines lines, cf::RunInfo info) {
    lines.start(info);
    lines(report(info.first_epoch));
    return parsed_lines(read_all(path)).size();
  };
  CHECK(lines_after(cf::JsonLines{path}, {.first_epoch = 1}) == 2);
  CHECK(lines_after(cf::JsonLines{path}, {.first_epoch = 1}) == 2);
  CHECK(lines_after(cf::JsonLines{path}, {.first_epoch = 2}) == 4);
  CHECK(lines_after(cf::JsonLines{path, {.append = true}}, {.first_epoch = 1}) == 6);
  write_all(path, R"({"kind":"start"})"
                  "\n"
                  R"({"kind":"epo)");
  CHECK(lines_after(cf::JsonLines{path}, {.first_epoch = 2}) == 3);
}

TEST_CASE("JsonLines touches no file before the run starts", "[observe]") {
  const TemporaryDirectory directory;
  cf::JsonLines lines{directory / "run.jsonl"};
  CHECK(!std::filesystem::exists(directory / "run.jsonl"));
  cf::JsonLines unwritable{directory.path()};
  CHECK_THROWS_AS(unwritable.start({}), cf::Error);
}
