#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/observe/collapse_guard.hpp>
#include <contraflow/observe/concept.hpp>
#include <contraflow/observe/csv.hpp>
#include <contraflow/observe/early_stop.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/picture_files.hpp>
#include <contraflow/observe/progress_bar.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>
#include <contraflow/observe/tensorboard.hpp>
#include <contraflow/train/loop.hpp>

#include "temporary_directory.hpp"

namespace cf = contraflow;

static_assert(cf::Observer<cf::ProgressBar> && cf::HasStart<cf::ProgressBar> &&
              cf::HasWarn<cf::ProgressBar> && cf::HasFinish<cf::ProgressBar>);
static_assert(cf::Observer<cf::JsonLines> && cf::HasStart<cf::JsonLines> &&
              cf::HasWarn<cf::JsonLines> && cf::HasFinish<cf::JsonLines>);
static_assert(cf::Observer<cf::TensorBoard> && cf::HasStart<cf::TensorBoard> &&
              cf::HasWarn<cf::TensorBoard> && cf::HasFinish<cf::TensorBoard>);
static_assert(cf::Observer<cf::PictureFiles> && cf::HasStart<cf::PictureFiles>);
static_assert(cf::Observer<cf::Csv> && cf::HasStart<cf::Csv> && cf::HasFinish<cf::Csv>);
static_assert(cf::Observer<cf::StopOnInterrupt> && cf::HasStart<cf::StopOnInterrupt> &&
              cf::HasFinish<cf::StopOnInterrupt>);
static_assert(cf::Observer<cf::EarlyStop> && cf::HasStart<cf::EarlyStop>);
static_assert(cf::Observer<cf::CollapseGuard> && cf::HasStart<cf::CollapseGuard>);

namespace {

/// A trainer with a reward of a tenth of the epoch and a velocity that grows with it.
class Trainer {
 public:
  std::int64_t epoch() const { return epoch_; }
  std::int64_t run_number() const { return 7; }
  cf::Alone communicator() const { return {}; }
  std::string reason_to_end() const { return ""; }
  template <class Warn>
  cf::EpochReport run_epoch(Warn&& warn) {
    const auto now = static_cast<double>(++epoch_);
    if (epoch_ == warns_at) {
      warn(cf::Warning{.quantity = "q", .value = now, .message = "of the trainer"});
    }
    return {.epoch = epoch_, .metrics = {{"reward/mean", 0.1 * now}, {"velocity_norm", now}}};
  }
  template <class... Os>
  cf::RunReport run(std::int64_t epochs, Os&&... observers) {
    return cf::run_loop(*this, epochs, observers...);
  }

  std::int64_t warns_at = 0;

 private:
  std::int64_t epoch_ = 0;
};

/// Has every hook, and writes down which were called, with what it saw.
struct Scribe {
  std::string name;
  std::vector<std::string>& calls;

  void start(const cf::RunInfo& info) {
    note("start " + std::to_string(info.first_epoch) + '-' + std::to_string(info.last_epoch));
  }
  void measure(Trainer& trainer, cf::EpochReport& report) {
    note("measure " + std::to_string(trainer.epoch()));
    report.add("of " + name, 1);
  }
  cf::Verdict operator()(const cf::EpochReport& report) {
    note("told of " + std::to_string(report.metrics.size()));
    return {.warnings = {cf::Warning{.quantity = name, .value = 0, .message = ""}}};
  }
  void warn(const cf::Warning& warning) { note("warned of " + warning.quantity); }
  void after(Trainer& trainer, const cf::EpochReport& report) {
    note("after " + std::to_string(trainer.epoch()) + ' ' + std::to_string(report.epoch));
  }
  void finish(Trainer& trainer, const cf::RunReport& run) {
    note("finish " + std::to_string(trainer.epoch()) + ' ' + std::to_string(run.epochs));
  }

  void note(const std::string& call) { calls.push_back(name + ' ' + call); }
};
static_assert(cf::Observer<Scribe> && cf::HasMeasure<Scribe, Trainer> &&
              cf::HasAfter<Scribe, Trainer> && cf::HasFinishOf<Scribe, Trainer> &&
              !cf::HasFinish<Scribe>);

using Calls = std::vector<std::string>;

}  // namespace

TEST_CASE("in an epoch all measure, then all are told, then warned, then all act", "[observe]") {
  Calls calls;
  Trainer trainer;
  trainer.warns_at = 1;
  trainer.run(1, Scribe{"a", calls}, Scribe{"b", calls});
  CHECK(calls == Calls{"a start 1-1", "b start 1-1", "a warned of q", "b warned of q",
                       "a measure 1", "b measure 1", "a told of 4", "b told of 4", "a warned of a",
                       "b warned of a", "a warned of b", "b warned of b", "a after 1 1",
                       "b after 1 1", "a finish 1 1", "b finish 1 1"});
}

namespace {

/// Refuses every run.
struct Refuses {
  void check(const cf::RunInfo& info) const {
    throw cf::Error("run", "none", std::to_string(info.run_number));
  }
  void operator()(const cf::EpochReport&) const {}
};
static_assert(cf::HasCheck<Refuses> && !cf::HasCheck<Scribe>);

}  // namespace

TEST_CASE("a run that one observer refuses has begun for none", "[observe]") {
  Calls calls;
  Trainer trainer;
  CHECK_THROWS_WITH(trainer.run(1, Scribe{"a", calls}, Refuses{}), "run: expected none, got 7");
  CHECK(calls.empty());
}

TEST_CASE("what one observer measures all are told, those before it too", "[observe]") {
  const TemporaryDirectory directory;
  Trainer trainer;
  std::vector<double> seen;
  const auto ear = [&](const cf::EpochReport& report) { seen.push_back(*report.find("mine")); };
  const auto measure = [](auto& of_run, cf::EpochReport& report) {
    report.add("mine", 10.0 * static_cast<double>(of_run.epoch()));
  };
  const cf::RunReport run = trainer.run(9, ear, cf::JsonLines{directory / "run.jsonl"}, measure,
                                        cf::EarlyStop{.metric = "mine", .target = 30});
  CHECK(seen == std::vector<double>{10, 20, 30});
  CHECK(run.last.find("mine") == 30.0);
  CHECK(run.stopped);
  CHECK(read_all(directory / "run.jsonl").find(R"("mine":20.0)") != std::string::npos);
}

TEST_CASE("the first observer that asks for the end gives the reason, and all are told",
          "[observe]") {
  Trainer trainer;
  int told = 0;
  const auto stop_at = [&](std::int64_t epoch, const char* reason) {
    return [&told, epoch, reason](const cf::EpochReport& report) -> cf::Verdict {
      ++told;
      return {.stop = report.epoch >= epoch, .reason = reason};
    };
  };
  const cf::RunReport run =
      trainer.run(9, stop_at(4, "never"), stop_at(2, "second"), stop_at(2, "third"));
  CHECK(run.epochs == 2);
  CHECK(run.reason == "second");
  CHECK(told == 6);
}

TEST_CASE("a run without an epoch is started and finished", "[observe]") {
  const TemporaryDirectory directory;
  Trainer trainer;
  const cf::RunReport run = trainer.run(
      0, cf::ProgressBar{}, cf::JsonLines{directory / "run.jsonl"}, cf::Csv{directory / "run.csv"},
      cf::TensorBoard{directory / "runs"}, cf::EarlyStop{.target = 1}, cf::CollapseGuard{});
  CHECK(run.epochs == 0);
  CHECK(!run.last.find("reward/mean"));
}

TEST_CASE("observers do without the metrics that an epoch lacks", "[observe]") {
  const TemporaryDirectory directory;
  // Outlives the bar, which ends its line when it goes.
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(std::tmpfile(), &std::fclose);
  cf::ProgressBar bar{{.stream = stream.get(), .width = 60}};
  cf::JsonLines lines{directory / "run.jsonl"};
  cf::Csv table{directory / "run.csv"};
  cf::CollapseGuard guard;
  cf::Observers all(bar, lines, table, guard);
  all.start({.first_epoch = 1, .last_epoch = 3});
  for (std::int64_t epoch = 1; epoch <= 3; ++epoch) {
    cf::EpochReport report{.epoch = epoch, .seconds = static_cast<double>(epoch)};
    report.add("loss", epoch == 2 ? std::optional(0.5) : std::nullopt);
    CHECK(all(report).warnings.empty());
  }
  std::rewind(stream.get());
  std::string drawn(1000, '\0');
  drawn.resize(std::fread(drawn.data(), 1, drawn.size(), stream.get()));
  CHECK(drawn.find("epoch 3/3") != std::string::npos);
  CHECK(drawn.find("reward") == std::string::npos);
  const std::string written = read_all(directory / "run.jsonl");
  CHECK(written.find(R"("metrics":{}})") != std::string::npos);
  CHECK(written.find("0.0,") == std::string::npos);
  CHECK(
      read_all(directory / "run.csv").ends_with(",loss\n1,0,0,0,1,\n2,0,0,0,2,0.5\n3,0,0,0,3,\n"));
}

TEST_CASE("observers given as rvalues work together in a run", "[observe]") {
  const TemporaryDirectory directory;
  std::FILE* stream = std::tmpfile();
  Trainer trainer;
  const cf::RunReport report = trainer.run(
      20, cf::ProgressBar{{.stream = stream, .width = 60}}, cf::JsonLines{directory / "run.jsonl"},
      cf::Csv{directory / "run.csv"}, cf::TensorBoard{directory / "runs"},
      cf::PictureFiles{directory / "pictures"}, cf::StopOnInterrupt{}, cf::CollapseGuard{},
      cf::EarlyStop{.metric = "reward/mean", .target = 0.45});
  std::fclose(stream);
  CHECK(report.epochs == 5);
  CHECK(report.reason == "reward/mean is 0.5 at epoch 5, the target is 0.45");

  const std::string lines = read_all(directory / "run.jsonl");
  CHECK(lines.find(R"({"kind":"warning","quantity":"velocity_norm","value":4.0)") !=
        std::string::npos);
  const auto last = nlohmann::json::parse(lines.substr(lines.rfind('\n', lines.size() - 2) + 1));
  CHECK(last["kind"] == "finish");
  CHECK(last["epochs"] == 5);
  CHECK(last["stopped"] == true);
  CHECK(last["reason"] == report.reason);
}
