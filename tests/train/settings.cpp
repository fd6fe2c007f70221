// Parts of a run that a user chooses: collectors, evaluators, stored samples, observers, metrics.

#include <atomic>
#include <chrono>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/model/module_velocity.hpp>
#include <contraflow/objective/regression.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/solver/black_box.hpp>
#include <contraflow/train/offline.hpp>

#include "archetypes/collectors.hpp"
#include "archetypes/models.hpp"
#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;
using laws::check_error;
using small::same_bits;
using small::state_of;

namespace {

cf::Optimization fast() { return {.optimizer = cf::adamw({.learning_rate = 1e-2})}; }
cf::Collection collection() {
  cf::Collection options = small::options().collection;
  options.sample_shape = {2};
  return options;
}
// Times that follow a grid which a Collector of one's own does not know.
cf::ForwardProcess on_grid() {
  return {.times = cf::GridTimes{.grid = small::options().collection.grid}};
}

}  // namespace

TEST_CASE("a run that is replayed from its rollouts has the same bits") {
  const auto objective = cf::Nft{} + 0.1 * cf::VelocityKl{};
  cf::Trainer plain(small::policy(), cf::Euler{}, small::reward(), objective, collection(),
                    on_grid(), fast(), cf::Seed{7});
  plain.run(3);

  const archetypes::Recording<cf::SolverCollector<cf::Euler>> recording{
      cf::SolverCollector<cf::Euler>(cf::Euler{}, collection())};
  cf::Trainer recorded(small::policy(), recording, small::reward(), objective, on_grid(), fast(),
                       cf::Seed{7});
  recorded.run(3);
  CHECK(same_bits(state_of(recorded), state_of(plain)));
  REQUIRE(recording.kept->size() == 3);

  cf::Trainer replayed(small::policy(), archetypes::StoredRollouts<>{*recording.kept},
                       small::reward(), objective, on_grid(), fast(), cf::Seed{7});
  const cf::RunReport report = replayed.run(3);
  CHECK(same_bits(state_of(replayed), state_of(plain)));
  // Nobody was asked for a velocity to collect.
  CHECK(recorded.evaluations().forward - report.last.forward_evaluations == 3 * 12 * 5);
  CHECK(report.last.backward_evaluations == recorded.evaluations().backward);
}

TEST_CASE("what a collector leaves out is named") {
  const auto error_of = [](auto&& leave_out) {
    cf::Rollout<cf::NothingRecorded> rollout{laws::floats({4, 2}),
                                             at::zeros({4}, at::kLong),
                                             at::zeros({4}, at::kLong),
                                             at::arange(4),
                                             {}};
    leave_out(rollout);
    cf::Trainer trainer(small::policy(), archetypes::StoredRollouts<>{{rollout}}, small::reward(),
                        cf::Nft{});
    trainer.run(1);
  };
  error_of([](auto&) {});
  check_error([&] { error_of([](auto& r) { r.x0 = Tensor(); }); }, "x0 of the collector",
              "got nothing");
  check_error([&] { error_of([](auto& r) { r.id = Tensor(); }); }, "id of the collector",
              "int64 [4]");
  check_error([&] { error_of([](auto& r) { r.prompt = r.prompt.to(at::kInt); }); },
              "prompt of the collector", "got [4] of int");
  check_error([&] { error_of([](auto& r) { r.group = r.group.narrow(0, 0, 3); }); },
              "group of the collector", "got [3]");
}

TEST_CASE("the shape of a sample is that of a collector's samples, once there are some") {
  const cf::ModuleVelocity model(
      small::model(),
      [](auto& module, const Tensor& x, const Tensor& t) { return module->forward(x, t); });
  const cf::Rollout<cf::NothingRecorded> rollout{laws::floats({4, 2}),
                                                 at::zeros({4}, at::kLong),
                                                 at::zeros({4}, at::kLong),
                                                 at::arange(4),
                                                 {}};
  const auto policy = cf::SnapshotPolicy(model);
  cf::Trainer trainer(policy, archetypes::StoredRollouts<>{{rollout}}, small::reward(), cf::Nft{},
                      cf::EvaluationOptions{.samples = 3});
  check_error([&] { trainer.evaluate(); }, "sample_shape", "behind the first epoch");
  trainer.run(1);
  CHECK(trainer.evaluate().x0.sizes() == at::IntArrayRef({3, 2}));
}

namespace {
// Gives half of its samples, and goes on when these are scored.
struct Patient {
  std::shared_ptr<std::atomic<bool>> scored = std::make_shared<std::atomic<bool>>(false);

  template <class P, class Prompts, class Made>
  cf::Rollout<cf::NothingRecorded> collect(const cf::CollectorContext<P, Prompts>&,
                                           Made&& made) const {
    const Tensor numbers = at::zeros({4}, at::kLong);
    const cf::Rollout<cf::NothingRecorded> rollout{
        laws::floats({4, 2}), numbers, numbers, at::arange(4), {}};
    made(rollout.x0.narrow(0, 0, 2), numbers.narrow(0, 0, 2));
    // Where nobody scores meanwhile, the test fails and does not hang.
    for (int i = 0; i < 3000 && !scored->load(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    CHECK(scored->load());
    made(rollout.x0.narrow(0, 2, 2), numbers.narrow(0, 2, 2));
    return rollout;
  }
};
}  // namespace

TEST_CASE("a batch of a collector's is scored while the next one is made") {
  const Patient patient;
  const auto reward = [scored = patient.scored](const Tensor& x0) {
    scored->store(true);
    return x0.select(1, 0);
  };
  cf::Trainer trainer(small::policy(), patient, reward, cf::Nft{});
  CHECK(trainer.run(1).last.find("reward/masked") == 0);
}

TEST_CASE("recorded transitions are replayed as well") {
  using Record = cf::RecordedSteps<false>;
  const archetypes::Recording<cf::SolverCollector<cf::FlowSde, Record>, Record> recording{
      cf::SolverCollector<cf::FlowSde, Record>(cf::FlowSde{}, collection())};
  cf::Trainer recorded(small::policy(), recording, small::reward(), cf::Grpo{.clip_range = 0.1},
                       fast(), cf::Seed{7});
  recorded.run(2);
  cf::Trainer replayed(small::policy(), archetypes::StoredRollouts<Record>{*recording.kept},
                       small::reward(), cf::Grpo{.clip_range = 0.1}, fast(), cf::Seed{7});
  replayed.run(2);
  CHECK(replayed.gradient_steps() == 2);
  CHECK(same_bits(state_of(replayed), state_of(recorded)));
}

TEST_CASE("the old role of stored samples never moves, whatever the schedule") {
  const cf::StoredSamples samples{laws::floats({8, 2}), laws::doubles({8}, 2),
                                  at::zeros({8}, at::kLong)};
  for (const double decay : {0.0, 0.5, 1.0}) {
    cf::OfflineTrainer trainer(
        cf::SnapshotPolicy(small::model(), {.old_decay = cf::Constant{decay}}), samples, cf::Nft{},
        cf::Learning{.gradient_steps = 2}, fast());
    const auto weight = [&](Role role) {
      return cf::module_of(trainer.policy().model(role))->parameters()[0].detach().clone();
    };
    const Tensor start = weight(Role::current);
    const cf::RunReport report = trainer.run(3);
    CHECK(at::equal(weight(Role::old), start));
    CHECK_FALSE(at::equal(weight(Role::current), start));
    CHECK(*report.last.find("old_deviation") > 0);
  }
}

namespace {
// The velocity of a sample is exact, and so is its reward: batches cannot be told apart.
cf::EvaluationOptions evaluation(std::int64_t batch) {
  return {.samples = 13, .batch = batch, .grid = cf::uniform_grid(6), .seed = 4};
}
const auto labelled = [](const Tensor& x0, const Tensor& label) {
  return x0.select(1, 0).to(at::kDouble) + 100 * label.to(at::kDouble);
};
template <class... Components>
auto evaluating(const Components&... components) {
  return cf::Trainer(cf::SnapshotPolicy(archetypes::ExactModel{}), cf::Euler{}, labelled, cf::Nft{},
                     small::options().collection, cf::class_prompts(3), components...);
}
}  // namespace

TEST_CASE("an evaluation is the same in batches of any size") {
  auto whole = evaluating(evaluation(0));
  const cf::Evaluation expected = whole.evaluate();
  CHECK(expected.x0.size(0) == 13);
  for (const std::int64_t batch : {1, 5, 13, 100}) {
    INFO("batches of " << batch);
    auto trainer = evaluating(evaluation(batch));
    const cf::Evaluation got = trainer.evaluate();
    CHECK(laws::same_bits(got.x0, expected.x0));
    CHECK(got.reward == expected.reward);
    // Also with a solver that draws.
    auto noisy = evaluating(cf::Evaluator(evaluation(batch), cf::FlowSde{}));
    auto noisy_whole = evaluating(cf::Evaluator(evaluation(0), cf::FlowSde{}));
    CHECK(laws::same_bits(noisy.evaluate().x0, noisy_whole.evaluate().x0));
  }
}

TEST_CASE("an evaluator has a solver and prompts of its own") {
  auto usual = evaluating(evaluation(0));
  auto second_order = evaluating(cf::Evaluator(evaluation(0), cf::DpmSolver<2>{}));
  const cf::Evaluation one = usual.evaluate(), other = second_order.evaluate();
  CHECK_FALSE(at::equal(one.x0, other.x0));
  CHECK(std::round(one.reward / 100) == 1);  // labels 0, 1, 2 in turn

  cf::EvaluationOptions every = evaluation(0);
  every.every = 1;
  auto held_out = evaluating(
      cf::Evaluator(every, cf::DpmSolver<1>{}, cf::PromptRows(at::tensor({7, 9}, at::kLong))));
  const cf::EpochReport report = held_out.run_epoch();
  CHECK(std::round(*report.find("evaluation/reward") / 100) == 8);
  CHECK(std::round(*report.find("reward/mean") / 100) == 1);
  CHECK(held_out.evaluate(cf::PromptRows(at::tensor({5}, at::kLong))).reward > 400);
}

TEST_CASE("evaluations on the steps of the collecting solver are those of its own") {
  // The default of an evaluator is DPM-Solver of first order: Euler's method in other words.
  auto by_default = evaluating(evaluation(0));
  auto by_euler = evaluating(cf::Evaluator(evaluation(0), cf::Euler{}));
  CHECK(laws::relative_distance(by_default.evaluate().x0, by_euler.evaluate().x0) < 1e-5);
}

namespace {
// Has every hook, and writes down when it is called.
struct Diary {
  std::string name;
  std::vector<std::string>* lines;
  void say(const std::string& what) const { lines->push_back(name + " " + what); }
  template <class T>
  void measure(T& trainer, cf::EpochReport& report) {
    say("measures " + std::to_string(trainer.epoch()));
    report.add("by " + name, double(trainer.epoch()));
  }
  void operator()(const cf::EpochReport& report) {
    say("is told " + std::to_string(report.metrics.size()));
  }
  template <class T>
  void after(T&, const cf::EpochReport&) {
    say("is called behind");
  }
  template <class T>
  void finish(T& trainer, const cf::RunReport& report) {
    say("ends " + std::to_string(trainer.epoch()) + " of " + std::to_string(report.epochs));
  }
};
}  // namespace

TEST_CASE("all measure, then all are told, then all are called behind") {
  auto trainer =
      small::trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, small::options());
  const auto metrics = trainer.run_epoch().metrics.size();
  std::vector<std::string> lines;
  std::string last;
  trainer.run(
      2, Diary{"a", &lines}, [&](const cf::EpochReport& r) { last = r.metrics.back().name; },
      [](auto& of, cf::EpochReport& report) { report.add("mine", double(of.gradient_steps())); },
      Diary{"b", &lines});
  const std::string told = std::to_string(metrics + 3);
  CHECK(lines == std::vector<std::string>{"a measures 2", "b measures 2", "a is told " + told,
                                          "b is told " + told, "a is called behind",
                                          "b is called behind", "a ends 2 of 2", "b ends 2 of 2"});
  CHECK(last == "by b");
}

TEST_CASE("a metric of one's own reaches the files") {
  const TemporaryDirectory folder;
  auto trainer =
      small::trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, small::options());
  trainer.run(2, cf::JsonLines{folder / "run.jsonl"}, [](auto& of, cf::EpochReport& report) {
    report.add("mine", 10. * double(of.epoch()));
  });
  std::istringstream lines(read_all(folder / "run.jsonl"));
  std::vector<double> mine;
  for (std::string line; std::getline(lines, line);) {
    const auto object = nlohmann::json::parse(line);
    if (object.at("kind") == "epoch") mine.push_back(object.at("metrics").at("mine"));
  }
  CHECK(mine == std::vector<double>{10, 20});
}

namespace {
bool is_later(const cf::EpochReport& report, const std::string& name) {
  return !report.find(name) && report.knows(name);
}
}  // namespace

TEST_CASE("what an epoch did not measure is absent, and named as what others may have") {
  small::Options options = small::options();
  options.evaluation.every = 2;
  const auto flat = [](const Tensor& x0) { return at::ones({x0.size(0)}); };
  auto idle = small::trainer(small::policy(), cf::Euler{}, flat, cf::Nft{.informative_only = true},
                             options);
  const cf::EpochReport report = idle.run_epoch();
  CHECK(report.gradient_steps == 0);
  for (const char* name : {"loss", "loss/nft", "gradient_norm", "velocity_norm",
                           "evaluation/reward", "evaluation/masked", "evaluation/score/reward"}) {
    INFO(name);
    CHECK_FALSE(report.find(name).has_value());
    CHECK(is_later(report, name));
  }
  CHECK(report.find("skipped_steps") == 0);
  CHECK(report.find("old_deviation") == 0);  // kept, and equal
  const cf::EpochReport second = idle.run_epoch();
  CHECK(second.find("evaluation/reward").has_value());
  CHECK_FALSE(is_later(second, "evaluation/reward"));

  // Without a role `old` there is no deviation from it, now or later.
  auto without =
      small::trainer(small::policy(), cf::FlowSde{}, small::reward(), cf::Grpo{}, small::options());
  const cf::EpochReport learnt = without.run_epoch();
  CHECK_FALSE(learnt.find("old_deviation").has_value());
  CHECK_FALSE(is_later(learnt, "old_deviation"));
  CHECK(learnt.find("loss").has_value());
  // An evaluation that is never made is nothing to wait for.
  CHECK_FALSE(is_later(learnt, "evaluation/reward"));
}

TEST_CASE("what nobody could score has no reward, in epochs and evaluations") {
  small::Options options = small::options();
  options.evaluation.every = 1;
  const auto away = [](const Tensor&) -> Tensor { throw std::runtime_error("away"); };
  auto trainer = small::trainer(small::policy(), cf::Euler{}, away, cf::Nft{}, options);
  const cf::EpochReport report = trainer.run_epoch();
  for (const char* name : {"evaluation/reward", "evaluation/score/reward", "score/reward",
                           "reward/mean", "reward/std", "reward/group_std", "zero_std_ratio"}) {
    INFO(name);
    CHECK_FALSE(report.find(name).has_value());
    CHECK(is_later(report, name));
  }
  CHECK(report.find("evaluation/masked") == 16);
  const cf::Evaluation evaluation = trainer.evaluate();
  CHECK(std::isnan(evaluation.reward));
  CHECK(evaluation.scores.empty());
  CHECK(evaluation.failures == std::vector<std::string>{"reward: away"});
}

TEST_CASE("a reward that breaks its contract ends the run at once") {
  const auto mean = [](const Tensor& x0) { return x0.mean(); };
  const auto few = [](const Tensor& x0) { return std::vector<float>(std::size_t(x0.size(0)) - 1); };
  const auto nothing = [](const Tensor&) { return Tensor(); };
  const auto refuses = [](const auto& reward) {
    for (const bool asynchronous : {false, true}) {
      small::Options options = small::options();
      options.collection.rollout_batch = 4;
      options.collection.asynchronous_scoring = asynchronous;
      auto trainer = small::trainer(small::policy(), cf::Euler{}, reward, cf::Nft{}, options);
      check_error([&] { trainer.run(3); }, "reward reward", "one score a sample, shape [4]");
      check_error([&] { trainer.run_epoch(); }, "reward reward", "one score a sample");
      check_error([&] { trainer.evaluate(); }, "reward reward", "one score a sample, shape [16]");
      CHECK(trainer.epoch() == 0);
    }
  };
  refuses(mean);
  refuses(few);
  refuses(nothing);
}

TEST_CASE("an epoch that a fault ended leaves nothing behind for the next") {
  small::Options options = small::options();
  options.collection.rollout_batch = 4;
  int left = 1;  // batches that are made before the fault
  const cf::BlackBox sampler([&](auto& velocity, const Tensor& noise, cf::Generator&) {
    if (left-- == 0) throw cf::Error("sampler", "a better day", "this one");
    return noise - velocity(noise, 1.0);
  });
  auto spoilt = small::trainer(small::policy(), sampler, small::reward(), cf::Nft{}, options);
  check_error([&] { spoilt.run(1); }, "sampler", "a better day");
  CHECK(spoilt.run(1).last.find("reward/masked") == 0);
  left = -1;
  auto plain = small::trainer(small::policy(), sampler, small::reward(), cf::Nft{}, options);
  plain.run(1);
  CHECK(same_bits(state_of(spoilt), state_of(plain)));
}
