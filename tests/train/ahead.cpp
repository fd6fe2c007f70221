// Samples of the next epoch, made and scored while one is learnt.

#include <atomic>
#include <chrono>
#include <memory>
#include <string_view>
#include <thread>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/objective/regression.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "laws/errors.hpp"
#include "network/tiny_mmdit.hpp"
#include "observe/temporary_directory.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;

namespace {

// What a term was given.
struct Seen {
  Tensor x0, x_t, t, old;
};

// Learns from all samples, and notes what it is given.
struct NotingTerm {
  using Velocities = cf::Roles<Role::current, Role::old>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "noting";

  std::shared_ptr<std::vector<Seen>> seen = std::make_shared<std::vector<Seen>>();

  Tensor signal(const cf::Scores& scores) const { return scores.advantage; }

  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& advantage, cf::Statistics&) const {
    seen->push_back({batch.x0.clone(), batch.x_t.clone(), batch.t.clone(),
                     cf::velocity<Role::old>(batch).clone()});
    return advantage * cf::matching_error(batch, cf::velocity<Role::current>(batch));
  }
};

// Waits, for some seconds, until another thread has come so far.
bool comes_to(const std::atomic<int>& count, int least) {
  for (int i = 0; i < 2000 && count < least; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return count >= least;
}

// Learns when the judge has been asked twice.
struct PatientTerm : NotingTerm {
  std::atomic<int>* learnt = nullptr;
  const std::atomic<int>* asked = nullptr;

  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& advantage, cf::Statistics& statistics) const {
    if (comes_to(*asked, 2)) ++*learnt;
    return NotingTerm::loss(batch, advantage, statistics);
  }
};

// The old role takes over half of the current one behind each epoch, so that they differ.
auto policy() { return cf::SnapshotPolicy(small::model(), {.old_decay = cf::Constant{0.5}}); }
// Adapters on one base.
auto adapters() {
  cf::LoraPolicyOptions options;
  options.old_decay = cf::Constant{0.5};
  const auto brightness = [](const Tensor& x0) { return x0.flatten(1).mean(1); };
  return cf::Trainer(cf::LoraPolicy(tiny::mmdit(), {.rank = 2}, options), cf::Euler{}, brightness,
                     cf::Nft{}, cf::PromptRows(tiny::condition(2)),
                     cf::Collection{.prompts_per_epoch = 2,
                                    .group_size = 2,
                                    .grid = cf::uniform_grid(2),
                                    .sample_shape = {4, 4, 4}},
                     cf::Seed{7}, cf::Ahead{1});
}

template <class... More>
auto trainer(const More&... more) {
  return small::trainer(policy(), cf::Euler{}, small::reward(), cf::Nft{}, small::options(),
                        more...);
}

// What a run goes on from, without what a clock and a run's name say.
template <class T>
auto going_on_from(T& trainer) {
  auto state = trainer.state();
  state.counts.erase("nanoseconds");
  state.counts.erase("run");
  return std::pair(small::State(state.tensors), state.counts);
}
template <class A, class B>
void check_equal(A& a, B& b) {
  const auto [tensors, counts] = going_on_from(a);
  const auto [other_tensors, other_counts] = going_on_from(b);
  CHECK(small::same_bits(tensors, other_tensors));
  CHECK(counts == other_counts);
}

// Runs of 6 epochs that go on behind the third, with another trainer and with the same.
template <class Make>
void check_resumed(const Make& make) {
  const TemporaryDirectory folder;
  auto whole = make();
  whole.run(6);
  auto first = make();
  first.run(3, cf::Checkpoint{.directory = folder / "finished"});
  auto resumed = make();
  REQUIRE(cf::resume(resumed, folder / "finished"));
  resumed.run(6);
  first.run(6);
  check_equal(whole, resumed);
  check_equal(whole, first);

  auto killed = make();
  for (int epoch = 0; epoch < 3; ++epoch) killed.run_epoch();
  cf::save_checkpoint(killed, folder / "killed");  // with the samples of the fourth made
  auto again = make();
  REQUIRE(cf::resume(again, folder / "killed"));
  again.run(6);
  check_equal(whole, again);
}

}  // namespace

TEST_CASE("with no epoch ahead a run has the bits of one without Ahead") {
  auto plain = trainer();
  auto none = trainer(cf::Ahead{0}), ahead = trainer(cf::Ahead{1});
  plain.run(4);
  none.run(4);
  ahead.run(4);
  check_equal(plain, none);
  CHECK_FALSE(small::same_bits(small::state_of(plain), small::state_of(ahead)));
}

TEST_CASE("samples are made by the policy of an epoch before, and learnt against it") {
  const NotingTerm term;
  auto ahead =
      small::trainer(policy(), cf::Euler{}, small::reward(), term, small::options(), cf::Ahead{});
  std::vector<small::State> old;  // the old role at the beginning of each epoch
  for (int epoch = 0; epoch < 4; ++epoch) {
    old.push_back(cf::detail::copies_of(ahead.policy().tensors_of(Role::old)));
    const auto report = ahead.run_epoch();
    CHECK(report.find("staleness") == (epoch == 0 ? 0.0 : 1.0));
  }
  REQUIRE(term.seen->size() == 4);
  CHECK_FALSE(small::same_bits(old[1], old[2]));
  for (std::size_t epoch = 0; epoch < 4; ++epoch) {
    INFO("epoch " << epoch);
    const Seen& seen = term.seen->at(epoch);
    // A trainer whose policy is who was to make the samples of this epoch makes the same.
    const NotingTerm same_term;
    auto same = small::trainer(policy(), cf::Euler{}, small::reward(), same_term, small::options());
    auto state = same.state();
    for (const auto& [name, tensor] : old[epoch == 0 ? 0 : epoch - 1]) {
      state.tensors.insert_or_assign(name, tensor);
    }
    state.counts.at("epoch") = std::int64_t(epoch);
    same.load(state);
    const Tensor told = same.policy().velocity(Role::old, seen.x_t, seen.t, cf::Unconditional{});
    CHECK(laws::same_bits(seen.old, told));
    same.run_epoch();
    CHECK(laws::same_bits(seen.x0, same_term.seen->at(0).x0));
  }
}

TEST_CASE("the next samples are scored while those of an epoch are learnt") {
  std::atomic<int> learnt{0}, asked{0};
  std::atomic<bool> overlap{false};
  const auto judge = [&](const Tensor& x0) {
    if (++asked == 2) overlap = comes_to(learnt, 1);
    return x0.sum(1);
  };
  PatientTerm term;
  term.learnt = &learnt;
  term.asked = &asked;
  auto ahead = small::trainer(policy(), cf::Euler{}, judge, term, small::options(), cf::Ahead{1});
  ahead.run_epoch();
  ahead.evaluate();  // waits for them, so that a reward is not asked for both at once
  CHECK(overlap);
}

TEST_CASE("a run with samples ahead goes on with the same bits") {
  check_resumed([] { return trainer(cf::Ahead{1}); });
  check_resumed([] { return adapters(); });
  check_resumed([] {
    return small::trainer(policy(), cf::FlowSde{}, small::reward(), cf::Grpo{}, small::options(),
                          cf::Ahead{1});
  });
}

TEST_CASE("an epoch that is given up is made again from the same samples") {
  small::Options options = small::options();
  options.learning.gradient_steps = 3;
  const auto make = [&] {
    return small::trainer(policy(), cf::Euler{}, small::reward(), cf::Nft{}, options, cf::Ahead{1});
  };
  auto whole = make();
  whole.run(5);
  // The samples of the epoch are there; those of the next one are made, then it is learnt.
  for (const int asked : {1, 3, 6, 8, 11}) {
    INFO("given up at question " << asked);
    auto broken = make();
    broken.run_epoch();
    broken.run_epoch();
    int questions = 0;
    broken.watch(cf::EpochWatch([&] { return ++questions == asked; }));
    CHECK_THROWS_AS(broken.run_epoch(), cf::EpochGivenUp);
    broken.watch({});
    broken.run(5);
    check_equal(whole, broken);
  }
}

TEST_CASE("what Ahead cannot be is refused") {
  laws::check_error([] { trainer(cf::Ahead{2}); }, "ahead", "0 or 1 epochs, got 2");
  auto ahead = trainer(cf::Ahead{1});
  ahead.run(1);
  const auto state = ahead.state();
  const auto before = going_on_from(ahead);
  auto incomplete = state;
  incomplete.tensors.erase(incomplete.tensors.lower_bound("ahead."));
  laws::check_error([&] { ahead.load(incomplete); }, "state", "a tensor named ahead.old");
  auto negative = state;
  negative.counts.at("ahead_steps") = -1;
  laws::check_error([&] { ahead.load(negative); }, "ahead_steps", "a count of a run, got -1");
  CHECK(small::same_bits(before.first, going_on_from(ahead).first));
}

TEST_CASE("a run may go on without Ahead, and with it again") {
  auto ahead = trainer(cf::Ahead{1});
  ahead.run(2);
  auto plain = trainer();
  plain.load(ahead.state());
  CHECK(small::same_bits(small::state_of(plain), small::state_of(ahead)));
  plain.run(3);
  auto again = trainer(cf::Ahead{1});
  again.load(plain.state());
  CHECK(again.run_epoch().find("staleness") == 0.0);
  CHECK(again.run_epoch().find("staleness") == 1.0);
}
