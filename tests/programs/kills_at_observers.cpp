// Runs of the ring task whose process gets a signal at each moment at which an observer is told or
// asked something: a run that goes on has the bits, and the files, of one that nobody disturbed.

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <contraflow/contraflow.hpp>
#include <contraflow/observe/csv.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>
#include <contraflow/observe/tensorboard.hpp>
#include <contraflow/toy/rewards.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
namespace fs = std::filesystem;

namespace {

constexpr std::int64_t epochs = 3;

/// Sends the process a signal at a call, counted from 1 over all observers of a run.
class Fate {
 public:
  /// @param at 0: never
  Fate(std::int64_t at, int signal) : at_(at), signal_(signal) {}
  void call() {
    if (++calls_ == at_) std::raise(signal_);
  }

 private:
  std::int64_t at_;
  int signal_;
  std::atomic<std::int64_t> calls_ = 0;  ///< other threads ask, too
};

/// Stands between two observers: whatever they are told is a call, before and behind each of them.
class Between {
 public:
  explicit Between(Fate& fate) : fate_(&fate) {}
  void check(const cf::RunInfo&) const { fate_->call(); }
  void start(const cf::RunInfo&) const { fate_->call(); }
  template <class T>
  void measure(T&, cf::EpochReport&) const {
    fate_->call();
  }
  void operator()(const cf::EpochReport&) const { fate_->call(); }
  void warn(const cf::Warning&) const { fate_->call(); }
  template <class T>
  void after(T&, const cf::EpochReport&) const {
    fate_->call();
  }
  void finish(const cf::RunReport&) const { fate_->call(); }

 private:
  Fate* fate_;
};

/// Is asked in the middle of epochs.
class Asked {
 public:
  explicit Asked(Fate& fate) : fate_(&fate) {}
  std::string interruption() const {
    fate_->call();
    return "";
  }
  void operator()(const cf::EpochReport&) const {}

 private:
  Fate* fate_;
};

cf::Collection collection() {
  return {.prompts_per_epoch = 3, .group_size = 6, .grid = cf::uniform_grid(3)};
}
auto policy() { return cf::SnapshotPolicy(cf::MlpVelocity({.width = 16, .depth = 2})); }
const cf::toy::InModes in_modes{{1, 4}};
const cf::EvaluationOptions evaluation{.every = 2, .samples = 6, .grid = cf::uniform_grid(3)};

/// A run, from what there is in its folder to its end.
/// @return what the program answers: 0, or 2 where it was stopped
template <class Make>
int run(const Make& make, const fs::path& folder, Fate fate) {
  auto trainer = make();
  cf::resume(trainer, folder / "checkpoints");
  const auto measures = [](auto& of_run, cf::EpochReport& report) {
    report.add("own", static_cast<double>(of_run.gradient_steps()));
  };
  const auto warns = [](const cf::EpochReport& report) -> cf::Verdict {
    return {.warnings = {{"own", static_cast<double>(report.epoch), "once an epoch"}}};
  };
  const Between here(fate);
  const cf::RunReport report =
      trainer.run(epochs, Asked(fate), here, cf::StopOnInterrupt{}, here, measures, warns, here,
                  cf::JsonLines{folder / "run.jsonl"}, here, cf::Csv{folder / "run.csv"}, here,
                  cf::TensorBoard{folder / "tensorboard"}, here,
                  cf::Checkpoint{.directory = folder / "checkpoints", .every = 2, .keep = 1}, here);
  return report.stopped ? 2 : 0;
}

/// How a process ends that does this, see waitpid().
template <class F>
int status_of(F&& program) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int answer = 1;
    try {
      for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);  // not Catch2's
      answer = program();
    } catch (const std::exception& failure) {
      std::fprintf(stderr, "%s\n", failure.what());
    }
    ::_exit(answer);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

bool was_killed(int status, int signal) {
  return WIFSIGNALED(status) && WTERMSIG(status) == signal;
}
bool has_answered(int status, int answer) {
  return WIFEXITED(status) && WEXITSTATUS(status) == answer;
}

/// The epochs of a file of JSON lines, each without what a clock says.
std::vector<nlohmann::json> epochs_in(const fs::path& path) {
  std::istringstream stream(read_all(path));
  std::vector<nlohmann::json> found;
  for (std::string line; std::getline(stream, line);) {
    nlohmann::json object = nlohmann::json::parse(line);
    if (object["kind"] != "epoch") continue;
    object.erase("seconds");
    for (const char* part : {"collect", "epoch", "wait"}) {
      object["metrics"].erase(std::string("seconds/") + part);
    }
    found.push_back(std::move(object));
  }
  return found;
}

/// The first cells of a table, its head included.
std::vector<std::string> first_column(const fs::path& path) {
  std::istringstream stream(read_all(path));
  std::vector<std::string> found;
  for (std::string line; std::getline(stream, line);)
    found.push_back(line.substr(0, line.find(',')));
  return found;
}

/// What a run has left.
struct Results {
  std::map<std::string, cf::Tensor> state, optimizer;
  std::map<std::string, std::string> counts;
  std::vector<nlohmann::json> lines;
  std::vector<std::string> rows;
};
Results results_in(const fs::path& folder) {
  const auto checkpoints = cf::checkpoints_in(folder / "checkpoints");
  REQUIRE(!checkpoints.empty());
  const auto state = cf::read_safetensors(checkpoints.back() / "state.safetensors");
  const auto optimizer = cf::read_safetensors(checkpoints.back() / "optimizer.safetensors");
  Results results{{}, {}, {}, epochs_in(folder / "run.jsonl"), first_column(folder / "run.csv")};
  // Mapped files are gone when they are compared.
  for (const auto& [name, tensor] : state.tensors) results.state.emplace(name, tensor.clone());
  for (const auto& [name, tensor] : optimizer.tensors) {
    results.optimizer.emplace(name, tensor.clone());
  }
  for (const char* count :
       {"epoch", "gradient_steps", "forward_evaluations", "backward_evaluations"}) {
    results.counts.emplace(count, state.metadata.at(count));
  }
  return results;
}

bool are_equal(const std::map<std::string, cf::Tensor>& a,
               const std::map<std::string, cf::Tensor>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](auto& x, auto& y) {
           return x.first == y.first && at::equal(x.second, y.second);
         });
}

/// The lines of a run whose evaluation may have been given up: then that epoch has none.
void drop_given_up(const std::vector<nlohmann::json>& found,
                   std::vector<nlohmann::json>& expected) {
  for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    if (found[i]["metrics"].contains("evaluation/masked")) continue;
    for (const char* metric : {"masked", "reward", "score/reward"}) {
      expected[i]["metrics"].erase(std::string("evaluation/") + metric);
    }
  }
}

void check_equal(const Results& found, const Results& expected) {
  CHECK(are_equal(found.state, expected.state));
  CHECK(are_equal(found.optimizer, expected.optimizer));
  CHECK(found.counts == expected.counts);
  CHECK(found.lines == expected.lines);
  CHECK(found.rows == expected.rows);
}

/// A run that was asked to end has a checkpoint of the last epoch that anyone was told of, unless
/// it does not listen yet or no longer.
void check_ended_in_order(int status, const fs::path& folder) {
  const auto told = fs::exists(folder / "run.jsonl") ? epochs_in(folder / "run.jsonl").size() : 0;
  INFO("told of " << told << " epochs, status " << status);
  if (was_killed(status, SIGTERM)) {
    CHECK((told == 0 || told == epochs));
    return;
  }
  CHECK((has_answered(status, 2) || has_answered(status, 0)));
  const auto checkpoints = cf::checkpoints_in(folder / "checkpoints");
  if (told == 0) {
    CHECK(checkpoints.empty());
    return;
  }
  REQUIRE(!checkpoints.empty());
  const auto state = cf::read_safetensors(checkpoints.back() / "state.safetensors");
  CHECK(state.metadata.at("epoch") == std::to_string(told));
}

template <class Make>
void check_signals(const Make& make) {
  at::set_num_threads(1);
  const TemporaryDirectory undisturbed;
  REQUIRE(has_answered(status_of([&] { return run(make, undisturbed.path(), {0, 0}); }), 0));
  const Results expected = results_in(undisturbed.path());
  REQUIRE(expected.lines.size() == epochs);

  const auto meets = [&](std::int64_t at, int signal) {
    INFO("signal " << signal << " at call " << at);
    const TemporaryDirectory folder;
    const int status = status_of([&] { return run(make, folder.path(), {at, signal}); });
    if (signal == SIGKILL && has_answered(status, 0)) return false;  // there is no such call
    if (signal == SIGKILL) CHECK(was_killed(status, SIGKILL));
    if (signal == SIGTERM) check_ended_in_order(status, folder.path());
    REQUIRE(has_answered(status_of([&] { return run(make, folder.path(), {0, 0}); }), 0));
    const Results found = results_in(folder.path());
    Results wanted = expected;
    if (signal == SIGTERM) drop_given_up(found.lines, wanted.lines);
    check_equal(found, wanted);
    return true;
  };
  std::int64_t calls = 0;
  while (meets(calls + 1, SIGKILL)) ++calls;
  CHECK(calls > epochs * 3 * 7);  // seven places, each told thrice an epoch at least
  for (std::int64_t at = 1; at <= calls; ++at) meets(at, SIGTERM);
}

}  // namespace

TEST_CASE("a run of NFT that is killed at any call of an observer goes on to the same bits") {
  check_signals([] {
    return cf::Trainer(policy(), cf::DpmSolver<2>{}, in_modes, cf::Nft{} + 1e-2 * cf::VelocityKl{},
                       collection(), cf::Learning{.gradient_steps = 2}, evaluation, cf::Seed{7});
  });
}

TEST_CASE("so does one of FlowGRPO whose next samples are made before") {
  check_signals([] {
    return cf::Trainer(policy(), cf::FlowSde{}, in_modes, cf::Grpo{} + 0.04 * cf::TransitionKl{},
                       collection(), evaluation, cf::Seed{7}, cf::Ahead{1});
  });
}
