// Runs and their observers: files of a run that was interrupted, metrics that are to come.

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/objective/regression.hpp>
#include <contraflow/observe/csv.hpp>
#include <contraflow/observe/early_stop.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "observe/temporary_directory.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using namespace cf::literals;

namespace {

auto trainer(std::int64_t evaluate_every = 0) {
  small::Options options = small::options();
  options.evaluation.every = evaluate_every;
  return small::trainer(small::policy(), cf::Euler{}, cf::rewards("right"_r = small::reward()),
                        cf::Nft{}, options);
}

/// Ends the program's run when epoch 4 has been written down.
struct PowerFailure {
  template <class T>
  void after(T&, const cf::EpochReport& report) const {
    if (report.epoch == 4) throw cf::Error("machine", "power", "none");
  }
};

/// The epochs of a file of JSON lines, each without what a clock says.
std::vector<nlohmann::json> epochs_of(const std::string& lines) {
  std::istringstream stream(lines);
  std::vector<nlohmann::json> epochs;
  for (std::string line; std::getline(stream, line);) {
    nlohmann::json object = nlohmann::json::parse(line);
    if (object["kind"] != "epoch") continue;
    object.erase("seconds");
    object["metrics"].erase("seconds/collect");
    object["metrics"].erase("seconds/epoch");
    epochs.push_back(std::move(object));
  }
  return epochs;
}

}  // namespace

TEST_CASE("the files of a run that was interrupted and resumed are those of one that was not") {
  const TemporaryDirectory directory;
  auto whole = trainer();
  whole.run(5, cf::JsonLines{directory / "whole.jsonl"});

  auto broken_off = trainer();
  CHECK_THROWS_AS(
      broken_off.run(5, cf::JsonLines{directory / "run.jsonl"}, cf::Csv{directory / "run.csv"},
                     PowerFailure{}, cf::Checkpoint{.directory = directory / "run", .every = 2}),
      cf::Error);
  auto resumed = trainer();
  REQUIRE(cf::resume(resumed, directory / "run"));
  REQUIRE(resumed.epoch() == 2);  // of four that were written
  resumed.run(5, cf::JsonLines{directory / "run.jsonl"}, cf::Csv{directory / "run.csv"});
  CHECK(epochs_of(read_all(directory / "run.jsonl")) ==
        epochs_of(read_all(directory / "whole.jsonl")));
  const std::string table = read_all(directory / "run.csv");
  CHECK(std::count(table.begin(), table.end(), '\n') == 6);
}

TEST_CASE("metrics of evaluations to come are known from the first epoch on") {
  for (const char* metric : {"evaluation/reward", "evaluation/score/right", "evaluation/masked"}) {
    INFO(metric);
    auto run = trainer(/*evaluate_every=*/2);
    const cf::EpochReport first = run.run_epoch();
    CHECK(!first.find(metric));
    CHECK(first.knows(metric));
    CHECK(!first.knows("evaluation/other"));
    const cf::EpochReport second = run.run_epoch();
    CHECK(second.find(metric));
    CHECK(!second.knows("evaluation/score/wrong"));
    CHECK(trainer(2).run(9, cf::EarlyStop{.metric = metric, .target = -1e9}).epochs == 2);
  }
  CHECK(!trainer().run_epoch().knows("evaluation/reward"));
  CHECK_THROWS_WITH(trainer(2).run(9, cf::EarlyStop{.metric = "reward/maen", .target = 1}),
                    Catch::Matchers::ContainsSubstring("reward/mean, ") &&
                        Catch::Matchers::EndsWith("got reward/maen"));
}

TEST_CASE("metrics of a term that saw no sample of an epoch are to come") {
  small::Options options = small::options();
  // Equal rewards: no pair has a better sample.
  const auto flat = [](const cf::Tensor& x0) { return at::zeros({x0.size(0)}); };
  auto run =
      small::trainer(small::policy(), cf::Euler{}, flat, cf::FlowMatching{} + cf::Dpo{}, options);
  const cf::EpochReport report = run.run_epoch();
  REQUIRE(report.find("loss/flow_matching"));
  REQUIRE(!report.find("loss/dpo"));
  CHECK(report.knows("loss/dpo"));
  CHECK(report.knows("loss/dpo_accuracy"));
}
