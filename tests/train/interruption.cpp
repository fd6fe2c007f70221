// Runs that are interrupted in the middle of an epoch.

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <torch/optim/adam.h>

#include <contraflow/distributed/team.hpp>
#include <contraflow/objective/regression.hpp>
#include <contraflow/objective/reward_gradient.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>
#include <contraflow/toy/mixture.hpp>
#include <contraflow/train/checkpoint.hpp>
#include <contraflow/train/offline.hpp>
#include <contraflow/train/pretrain.hpp>

#include "observe/temporary_directory.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;

namespace {

/// Gives up an epoch when it is asked for the @p at -th time.
class Interrupts {
 public:
  static constexpr bool on_every_rank = true;
  explicit Interrupts(std::int64_t at) : at_(at) {}
  std::string interruption() const { return ++asked_ >= at_ ? "enough" : ""; }
  void operator()(const cf::EpochReport&) const { behind_.push_back(asked_); }
  std::int64_t asked() const { return asked_; }
  std::int64_t asked_in(std::size_t epochs) const { return behind_.at(epochs - 1); }

 private:
  std::int64_t at_;
  mutable std::int64_t asked_ = 0;
  mutable std::vector<std::int64_t> behind_;  ///< each epoch
};

/// Evaluates when all were told.
struct Acts {
  template <class T>
  void after(T& trainer, const cf::EpochReport&) const {
    trainer.evaluate();
  }
};

constexpr std::int64_t never = 1'000'000;

template <class T>
void check_same_bits(T& a, T& b) {
  const cf::TrainerState left = a.state(), right = b.state();
  for (const auto& [name, tensor] : left.tensors) {
    INFO(name);
    CHECK(at::equal(tensor, right.tensors.at(name)));
  }
  for (const char* count :
       {"epoch", "gradient_steps", "forward_evaluations", "backward_evaluations"}) {
    INFO(count);
    CHECK(left.counts.at(count) == right.counts.at(count));
  }
  const auto own = cf::state_of(a.optimizer()), other = cf::state_of(b.optimizer());
  REQUIRE(own.tensors.size() == other.tensors.size());
  if (own.values.at("optimizer") != "AdamW") return;  // others have no names for their tensors
  for (const auto& [name, tensor] : own.tensors) CHECK(at::equal(tensor, other.tensors.at(name)));
}

/// A run that is interrupted at any moment of an epoch has the state before it, and goes on with
/// the bits of one that was not; so does another that is resumed.
template <class Make>
void check_interruptions(const Make& make) {
  auto whole = make(), none = make(), one = make(), counted = make();
  whole.run(3);
  one.run(1);
  const Interrupts counts(never);
  counted.run(3, counts);
  const std::int64_t first = counts.asked_in(1), both = counts.asked_in(2);
  REQUIRE(both > first + 5);
  const std::int64_t stride = std::max<std::int64_t>(1, first / 8);
  for (std::int64_t at = 1; at <= both; at += stride) {
    INFO("asked for the time " << at << " of " << both);
    const TemporaryDirectory folder;
    auto run = make();
    const cf::RunReport report =
        run.run(3, Interrupts(at), cf::Checkpoint{.directory = folder.path(), .every = 100});
    REQUIRE(report.stopped);
    CHECK(report.reason == "enough");
    CHECK(report.epochs == run.epoch());
    const bool is_first = at <= first;
    REQUIRE(run.epoch() == (is_first ? 0 : 1));
    check_same_bits(is_first ? none : one, run);
    run.run(3);
    check_same_bits(run, whole);
    auto resumed = make();
    REQUIRE(cf::resume(resumed, folder.path()) == !is_first);
    resumed.run(3);
    check_same_bits(resumed, whole);
  }
}

cf::Collection collection() { return small::options().collection; }

template <class Term, class... More>
auto climbing(const Term& term, std::int64_t steps, const More&... more) {
  const auto reward = cf::differentiable([](const cf::Tensor& x0) { return x0.sum(1); });
  return cf::Trainer(small::policy(), cf::Euler{}, reward, term, collection(),
                     cf::Learning{.gradient_steps = steps}, more...);
}

/// A run that is interrupted in the evaluation behind its first epoch keeps the epoch, without the
/// evaluation, and goes on with the bits of one that was not.
template <class Make>
void check_evaluations(const Make& make) {
  auto counted = make();
  const Interrupts one(never);
  counted.run(1, one);
  auto run = make();
  std::optional<cf::EpochReport> told;
  const cf::RunReport report =
      run.run(3, Interrupts(one.asked() - 2), [&](const cf::EpochReport& epoch) { told = epoch; });
  CHECK(report.stopped);
  CHECK(run.epoch() == 1);
  check_same_bits(run, counted);
  REQUIRE(told);
  CHECK(!told->find("evaluation/reward"));
  run.run(3);
  counted.run(3);
  check_same_bits(run, counted);
}

}  // namespace

TEST_CASE("an epoch of one gradient step is given up at any moment") {
  check_interruptions([] {
    return cf::Trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, collection(),
                       cf::Optimization{.micro_batch = 5});
  });
}

TEST_CASE("so is one of several steps, of another optimiser, with a scale of the loss") {
  check_interruptions([] {
    cf::Optimization optimization;
    optimization.optimizer = [](std::vector<cf::Tensor> all) {
      return std::make_unique<torch::optim::Adam>(std::move(all), 1e-2);
    };
    optimization.loss_scale = cf::LossScaleOptions{.initial = 4, .growth_interval = 2};
    return cf::Trainer(small::policy(), cf::FlowSde{}, small::reward(),
                       cf::Grpo{} + 0.1 * cf::FlowMatching{}, collection(),
                       cf::Learning{.gradient_steps = 2, .inner_epochs = 2}, optimization);
  });
}

TEST_CASE("so is one whose next samples are made before") {
  for (const std::int64_t steps : {1, 3}) {
    check_interruptions([&] {
      return cf::Trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, collection(),
                         cf::Learning{.gradient_steps = steps}, cf::Ahead{1});
    });
  }
}

TEST_CASE("so are epochs of stored samples and of data") {
  check_interruptions([] {
    cf::Generator generator = cf::seeded(5);
    return cf::OfflineTrainer(
        small::policy(),
        cf::StoredSamples{cf::normal({9, 2}, generator), at::arange(9, at::kDouble),
                          at::zeros({9}, at::kLong)},
        cf::Nft{}, cf::Learning{.gradient_steps = 3, .inner_epochs = 2});
  });
  check_interruptions([] {
    return cf::Pretrainer(small::model(), cf::toy::ring(),
                          cf::Pretraining{.steps = 24, .batch = 8, .report_every = 8});
  });
}

TEST_CASE("so are epochs on the gradient of a reward") {
  check_interruptions(
      [] { return climbing(cf::Refl{.last_steps = 3}, 1, cf::Optimization{.micro_batch = 5}); });
  check_interruptions([] { return climbing(cf::DraftLv{}, 3, cf::Optimization{}); });
}

TEST_CASE("an evaluation is given up, and the epoch before it stands") {
  const cf::EvaluationOptions evaluation{.every = 1, .samples = 4, .grid = cf::uniform_grid(9)};
  check_evaluations([&] {
    return cf::Trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, collection(),
                       evaluation);
  });
  for (const std::int64_t steps : {1, 3}) {
    check_evaluations([&] { return climbing(cf::DraftK<>{}, steps, evaluation); });
  }
}

TEST_CASE("an observer's own evaluation is given up too, and the epoch stands") {
  const auto make = [] {
    return cf::Trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, collection(),
                       cf::EvaluationOptions{.samples = 4, .grid = cf::uniform_grid(9)});
  };
  auto counted = make();
  const Interrupts one(never);
  counted.run(1, one);
  const auto measures = [](auto& trainer, cf::EpochReport& report) {
    report.add("own", trainer.evaluate().reward);
  };
  for (const bool acts : {false, true}) {
    const TemporaryDirectory folder;
    auto run = make();
    const Interrupts interrupts(one.asked() + 4);
    const cf::Checkpoint checkpoint{.directory = folder.path(), .every = 100};
    const cf::RunReport report = acts
                                     ? run.run(3, interrupts, Acts{}, cf::Checkpoint(checkpoint))
                                     : run.run(3, interrupts, measures, cf::Checkpoint(checkpoint));
    CHECK(report.stopped);
    CHECK(report.reason == "enough");
    CHECK(report.epochs == 1);
    auto resumed = make();
    REQUIRE(cf::resume(resumed, folder.path()));
    check_same_bits(resumed, run);
  }
}

TEST_CASE("one rank that is interrupted ends the epoch of all") {
  constexpr int ranks = 3;
  for (const int ahead_and_who : {0, 2, 10, 12}) {
    const int who = ahead_and_who % 10;
    const cf::Ahead ahead{ahead_and_who / 10};
    for (const std::int64_t at : {3, 9, 14, 17}) {
      INFO("rank " << who << ", asked for the time " << at << ", ahead " << ahead.epochs);
      // Catch is told by one thread.
      std::vector<cf::RunReport> reports(ranks);
      std::vector<std::map<std::string, cf::Tensor>> whole(ranks), interrupted(ranks);
      cf::Team(ranks).run([&](const cf::TeamRank& team) {
        const auto make = [&] {
          return cf::Trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, collection(),
                             cf::Learning{.gradient_steps = 2}, ahead,
                             cf::EvaluationOptions{.every = 1, .samples = 4}, team);
        };
        const auto rank = static_cast<std::size_t>(team.rank());
        auto one = make(), other = make();
        one.run(2);
        reports[rank] = other.run(2, Interrupts(team.rank() == who ? at : never));
        other.run(2);
        whole[rank] = one.policy().state();
        interrupted[rank] = other.policy().state();
      });
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        CHECK(reports[rank].stopped);
        CHECK(reports[rank].reason == "enough");
        CHECK(reports[rank].epochs < 2);
        for (const auto& [name, tensor] : whole[rank]) {
          CHECK(at::equal(tensor, interrupted[rank].at(name)));
        }
      }
    }
  }
}

TEST_CASE("a signal in the middle of an epoch ends the run at the epoch before") {
  const TemporaryDirectory folder;
  const auto previous = std::signal(SIGTERM, [](int) {});
  int batches = 0;
  const auto reward = [&](const cf::Tensor& x0) {
    if (++batches == 5) std::raise(SIGTERM);
    return x0.sum(1);
  };
  cf::Collection batched = collection();
  batched.rollout_batch = 6;  // two batches an epoch
  auto trainer = cf::Trainer(small::policy(), cf::Euler{}, reward, cf::Nft{}, batched);
  const cf::RunReport report = trainer.run(
      9, cf::StopOnInterrupt{}, cf::Checkpoint{.directory = folder.path(), .every = 100});
  std::signal(SIGTERM, previous);
  CHECK(report.stopped);
  CHECK(report.reason == "interrupted by SIGTERM");
  CHECK(report.epochs == 2);
  const auto checkpoints = cf::checkpoints_in(folder.path());
  REQUIRE(checkpoints.size() == 1);
  CHECK(checkpoints[0].filename() == "epoch-00000002");
}

TEST_CASE("a judge that is slow is not waited for") {
  for (const bool is_ahead : {false, true}) {
    std::atomic<bool> may_answer{false}, has_answered{false};
    const auto slow = [&](const cf::Tensor& x0) {
      for (int i = 0; i < 2000 && !may_answer; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      has_answered = true;
      return x0.sum(1);
    };
    cf::Collection batched = collection();
    batched.asynchronous_scoring = true;
    batched.rollout_batch = 5;
    auto trainer = cf::Trainer(small::policy(), cf::Euler{}, slow, cf::Nft{}, batched,
                               cf::Ahead{is_ahead ? 1 : 0});
    // Three batches of five steps, with Ahead of two epochs; the next time is the wait for the
    // judge.
    const cf::RunReport report = trainer.run(3, Interrupts(is_ahead ? 31 : 16));
    CHECK(report.epochs == 0);
    CHECK(report.stopped);
    CHECK(!has_answered);
    may_answer = true;
  }
}
