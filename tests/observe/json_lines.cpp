#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iterator>
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

namespace {

/// "s1 1 2 f" of a file: its starts, epochs, warnings and finishes.
std::string outline(const std::string& text) {
  std::string all;
  for (const nlohmann::json& line : parsed_lines(text)) {
    const std::string kind = line["kind"];
    if (!all.empty()) all += ' ';
    if (kind == "epoch") {
      all += std::to_string(line["epoch"].get<std::int64_t>());
    } else {
      all += kind[0] + (kind == "start" ? std::to_string(line["first_epoch"].get<int>()) : "");
    }
  }
  return all;
}

}  // namespace

TEST_CASE("every epoch of a run that was interrupted and resumed stands in JsonLines once",
          "[observe]") {
  const TemporaryDirectory directory;
  const auto path = directory / "run.jsonl";
  const auto run = [&](std::int64_t first, std::int64_t last, bool finishes, bool append = false) {
    cf::JsonLines lines{path, {.append = append}};
    lines.start({.first_epoch = first, .last_epoch = 9});
    for (std::int64_t epoch = first; epoch <= last; ++epoch) {
      lines(report(epoch));
      lines.warn({.quantity = "q", .value = 1, .message = "\"epoch\":5"});
    }
    if (finishes) lines.finish({.epochs = last, .stopped = false, .reason = "", .last = {}});
  };
  run(1, 4, false);
  const std::string whole = read_all(path);
  CHECK(outline(whole) == "s1 1 w 2 w 3 w 4 w");
  const std::string kept = whole.substr(0, whole.find(R"({"kind":"epoch","epoch":3)"));
  write_all(path, whole + R"({"kind":"epoch","epoch":5,"gradi)");
  run(3, 5, true);  // the checkpoint was that of epoch 2
  CHECK(read_all(path).starts_with(kept));
  CHECK(outline(read_all(path)) == "s1 1 w 2 w s3 3 w 4 w 5 w f");
  run(6, 6, true);  // nothing to drop: what there is stays, the end of the run before too
  CHECK(outline(read_all(path)) == "s1 1 w 2 w s3 3 w 4 w 5 w f s6 6 w f");
  run(2, 4, false);
  CHECK(outline(read_all(path)) == "s1 1 w s2 2 w 3 w 4 w");

  // Of a file with several runs the latest is resumed.
  run(1, 3, false, /*append=*/true);
  run(3, 4, false, /*append=*/true);
  CHECK(outline(read_all(path)) == "s1 1 w s2 2 w 3 w 4 w s1 1 w 2 w s3 3 w 4 w");
  CHECK(std::distance(std::filesystem::directory_iterator(directory.path()), {}) == 1);
}

TEST_CASE("JsonLines keeps what is not its own, and follows a link, when epochs are dropped",
          "[observe]") {
  const TemporaryDirectory directory;
  const std::string foreign = "no JSON\n[1]\n{\"kind\":1}\n{\"kind\":\"epoch\",\"epoch\":\"x\"}\n";
  write_all(directory / "real", foreign + R"({"kind":"epoch","epoch":2})"
                                          "\n");
  std::filesystem::create_symlink("real", directory / "link");
  cf::JsonLines lines{directory / "link"};
  lines.start({.first_epoch = 2, .last_epoch = 3});
  CHECK(std::filesystem::is_symlink(directory / "link"));
  CHECK(read_all(directory / "real") == foreign +
                                            R"({"kind":"start","first_epoch":2,"last_epoch":3})"
                                            "\n");
  cf::JsonLines missing{directory / "new/run.jsonl"};
  missing.start({.first_epoch = 2, .last_epoch = 3});
  CHECK(outline(read_all(directory / "new/run.jsonl")) == "s2");
}

TEST_CASE("JsonLines touches no file before the run starts", "[observe]") {
  const TemporaryDirectory directory;
  cf::JsonLines lines{directory / "run.jsonl"};
  CHECK(!std::filesystem::exists(directory / "run.jsonl"));
  cf::JsonLines unwritable{directory.path()};
  CHECK_THROWS_AS(unwritable.start({}), cf::Error);
}
