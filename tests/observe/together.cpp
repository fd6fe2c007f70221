#include <cstdint>
#include <cstdio>
#include <string>
#include <type_traits>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/observe/collapse_guard.hpp>
#include <contraflow/observe/concept.hpp>
#include <contraflow/observe/csv.hpp>
#include <contraflow/observe/early_stop.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/progress_bar.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>
#include <contraflow/observe/tensorboard.hpp>

#include "temporary_directory.hpp"

namespace cf = contraflow;

static_assert(cf::Observer<cf::ProgressBar> && cf::HasStart<cf::ProgressBar> &&
              cf::HasWarn<cf::ProgressBar> && cf::HasFinish<cf::ProgressBar>);
static_assert(cf::Observer<cf::JsonLines> && cf::HasStart<cf::JsonLines> &&
              cf::HasWarn<cf::JsonLines> && cf::HasFinish<cf::JsonLines>);
static_assert(cf::Observer<cf::TensorBoard> && cf::HasStart<cf::TensorBoard> &&
              cf::HasWarn<cf::TensorBoard> && cf::HasFinish<cf::TensorBoard>);
static_assert(cf::Observer<cf::Csv> && cf::HasStart<cf::Csv> && cf::HasFinish<cf::Csv>);
static_assert(cf::Observer<cf::StopOnInterrupt> && cf::HasStart<cf::StopOnInterrupt> &&
              cf::HasFinish<cf::StopOnInterrupt>);
static_assert(cf::Observer<cf::EarlyStop> && cf::HasStart<cf::EarlyStop>);
static_assert(cf::Observer<cf::CollapseGuard> && cf::HasStart<cf::CollapseGuard>);

namespace {

/// Runs as a trainer does, with a reward of a tenth of the epoch and a velocity that grows with it.
template <class... Os>
cf::RunReport run(std::int64_t epochs, Os&&... observers) {
  cf::Observers<std::remove_reference_t<Os>...> all(observers...);
  all.start({.first_epoch = 1, .last_epoch = epochs});
  cf::RunReport report;
  while (report.epochs < epochs && !report.stopped) {
    const auto epoch = static_cast<double>(++report.epochs);
    report.last = {.epoch = report.epochs,
                   .metrics = {{"reward/mean", 0.1 * epoch}, {"velocity_norm", epoch}}};
    const cf::Verdict verdict = all(report.last);
    report.stopped = verdict.stop;
    report.reason = verdict.reason;
  }
  all.finish(report);
  return report;
}

}  // namespace

TEST_CASE("observers given as rvalues work together in a run", "[observe]") {
  const TemporaryDirectory directory;
  std::FILE* stream = std::tmpfile();
  const cf::RunReport report = run(
      20, cf::ProgressBar{{.stream = stream, .width = 60}}, cf::JsonLines{directory / "run.jsonl"},
      cf::Csv{directory / "run.csv"}, cf::TensorBoard{directory / "runs"}, cf::StopOnInterrupt{},
      cf::CollapseGuard{}, cf::EarlyStop{.metric = "reward/mean", .target = 0.45});
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
