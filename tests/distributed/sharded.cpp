// Runs of a policy that is divided between ranks are those of one that each of them has.

#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <torch/optim/sgd.h>

#include <contraflow/distributed/team.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "distributed/sharded_runs.hpp"
#include "laws/errors.hpp"
#include "laws/policy.hpp"
#include "observe/full_disk.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
namespace runs = distributed_runs;
namespace sharded = sharded_runs;
using archetypes::AnyRank;
using cf::Role;
using cf::Tensor;
using laws::check_error;

namespace {

// What each rank of a team gives.
template <class Rank = cf::TeamRank, class Body>
auto of_team(int size, Body&& body) {
  std::vector<decltype(body(std::declval<Rank>()))> results(static_cast<std::size_t>(size));
  cf::Team(size).run(
      [&](const cf::TeamRank& rank) { results[std::size_t(rank.rank())] = body(Rank(rank)); });
  return results;
}

}  // namespace

TEST_CASE("a policy that is divided comes to the bits of one that is not") {
  const auto alone = sharded::all(sharded::Whole{}, cf::Alone{});
  const auto alike = [](const auto& a, const auto& b) {
    for (const auto& [name, result] : a) {
      INFO(name);
      CHECK(runs::difference(result, b.at(name)) == "");
      CHECK(runs::same_bits(result, b.at(name)));
    }
  };
  alike(alone, sharded::all(sharded::Divided{}, cf::Alone{}));
  for (const int size : {1, 2, 3, 5}) {
    INFO(size << " ranks");
    const auto whole =
        of_team(size, [](const auto& rank) { return sharded::all(sharded::Whole{}, rank); });
    const auto divided =
        of_team(size, [](const auto& rank) { return sharded::all(sharded::Divided{}, rank); });
    for (const auto& of_rank : divided) alike(whole[0], of_rank);
    for (const auto& [name, result] : alone) {
      INFO(name);
      CHECK(runs::difference(result, divided[0].at(name)) == "");
    }
  }
  const std::int64_t made = alone.at("skipped steps").report.last.gradient_steps;
  CHECK(made > 0);
  CHECK(made < 4 * 4);
  CHECK(alone.at("NFT").report.last.find("gradient_norm") > 0.05);
}

TEST_CASE("ranks that only sum and gather divide a policy, too") {
  const auto run = [](const auto& rank) {
    return sharded::nft(sharded::Divided{}, rank, small::model(), 3);
  };
  const auto sent_to_owners = of_team(3, run), sent_to_all = of_team<AnyRank>(3, run);
  CHECK(runs::same_bits(sent_to_owners[0], sent_to_all[0]));
  CHECK(runs::same_bits(sent_to_owners[2], sent_to_all[2]));
}

TEST_CASE("a divided policy keeps the laws of policies") {
  laws::policy([] { return cf::ShardedPolicy(small::model(), cf::Alone{}); }, laws::floats({3, 2}));
  static_assert(cf::HasShards<cf::ShardedPolicy<cf::MlpVelocity, cf::TeamRank>>);
  static_assert(!cf::HasShards<cf::SnapshotPolicy<cf::MlpVelocity>>);
}

TEST_CASE("ranks divide roles and optimiser, and keep nothing else") {
  struct Kept {
    std::int64_t roles = 0, optimizer = 0, gradients = 0;
  };
  const auto numbers = [](const Tensor& tensor) { return tensor.defined() ? tensor.numel() : 0; };
  const auto kept = [&](const auto& rank) {
    cf::Trainer trainer(cf::ShardedPolicy(small::model(), rank), cf::Euler{}, small::reward(),
                        cf::Nft{} + 0.1 * cf::VelocityKl{}, runs::collection(), cf::Seed{7}, rank);
    trainer.run(2);
    Kept all;
    for (const auto& [name, tensor] : trainer.policy().state()) {
      if (!name.starts_with("current.")) all.roles += tensor.numel();
    }
    for (const auto& [name, tensor] : cf::state_of(trainer.optimizer()).tensors) {
      all.optimizer += tensor.numel();
    }
    for (const Tensor& parameter : trainer.policy().parameters()) {
      all.gradients += numbers(parameter.grad());
    }
    return all;
  };
  std::int64_t weights = 0, buffers = 0, largest = 0;
  for (const Tensor& weight : small::model()->parameters()) {
    weights += weight.numel();
    largest = std::max(largest, weight.numel());
  }
  for (const Tensor& buffer : small::model()->buffers()) buffers += buffer.numel();
  for (const int size : {1, 3, 11}) {
    INFO(size << " ranks");
    Kept sum;
    for (const Kept& of_rank : of_team(size, kept)) {
      CHECK(of_rank.roles <= 3 * ((weights + buffers) / size + largest));
      CHECK(of_rank.optimizer <= 2 * (weights / size + largest));
      CHECK(of_rank.gradients == 0);
      sum.roles += of_rank.roles;
      sum.optimizer += of_rank.optimizer;
    }
    CHECK(sum.roles == 3 * (weights + buffers));
    CHECK(sum.optimizer == 2 * weights);
  }
}

TEST_CASE("whole tensors are divided evenly, and sent in messages of a bounded size") {
  std::vector<std::int64_t> loads{0, 5, 0};
  CHECK(cf::balanced_owners({1, 9, 4, 4, 2}, loads) == std::vector<int>{1, 0, 2, 2, 1});
  CHECK(loads == std::vector<std::int64_t>{9, 8, 8});
  const std::vector<Tensor> tensors{at::zeros({4}), at::zeros({9}), at::zeros({1}), at::zeros({2}),
                                    at::zeros({3})};
  const auto buckets = cf::buckets_of(tensors, {1, 0, 1, 0, 1}, /*most=*/20);
  std::vector<std::pair<int, std::vector<std::size_t>>> found;
  for (const cf::Bucket& bucket : buckets) found.emplace_back(bucket.owner, bucket.tensors);
  const decltype(found) expected{{0, {1}}, {0, {3}}, {1, {0, 2}}, {1, {4}}};
  CHECK(found == expected);
}

TEST_CASE("a role is whole while it is gathered, one at a time") {
  cf::Team(2).run([](const cf::TeamRank& rank) {
    cf::ShardedPolicy policy(sharded::Few(), rank);
    policy.keep(cf::Roles<Role::old>{});
    const Tensor x = at::ones({1, 2}), t = at::ones({1});
    const auto ask = [&](Role role) { return policy.velocity(role, x, t, cf::Unconditional{}); };
    const auto refused = [&](auto&& f, const std::string& part) {
      try {
        f();
      } catch (const cf::Error& error) {
        if (std::string(error.what()).find(part) != std::string::npos) return;
      }
      throw std::runtime_error("not refused: " + part);
    };
    refused([&] { ask(Role::old); }, "policy.gathered(role) on all ranks, before, got old");
    refused([&] { static_cast<void>(policy.gathered(Role::reference)); },
            "kept before training, got reference");
    {
      const auto old = policy.gathered(Role::old);
      const auto again = policy.gathered(Role::old);
      ask(Role::old);
      refused([&] { static_cast<void>(policy.gathered(Role::average)); },
              "one role gathered at a time, got old and average");
      refused([&] { ask(Role::average); }, "got average");
    }
    refused([&] { ask(Role::old); }, "got old");
    const auto average = policy.gathered(Role::average);
    if (!at::equal(ask(Role::average), ask(Role::current))) throw std::runtime_error("not whole");
    refused([&] { policy.after_gradient_step(1); }, "none that is gathered while roles change");
    refused([&] { policy.load(policy.state()); }, "none that is gathered while roles change");
  });
}

namespace {

template <class Make, class Comm>
auto trainer_of(const Make& make, const Comm& ranks) {
  return cf::Trainer(make(small::model(), ranks), cf::Euler{}, runs::WithGaps{},
                     cf::Nft{} + 0.1 * cf::VelocityKl{}, runs::collection(),
                     cf::Learning{.gradient_steps = 2}, sharded::optimization(), cf::Seed{7},
                     ranks);
}

// A run of @p size ranks to @p epochs in total, from and to a folder.
template <class Make>
runs::Result run_in(const std::filesystem::path& folder, const Make& make, int size,
                    std::int64_t epochs) {
  return of_team(size, [&](const auto& rank) {
    auto trainer = trainer_of(make, rank);
    cf::resume(trainer, folder);
    runs::Result result;
    result.report = trainer.run(epochs, cf::Checkpoint{.directory = folder, .every = 2});
    result.tensors = sharded::whole_state(trainer);
    return result;
  })[0];
}
runs::Result run_in(const std::filesystem::path& folder, bool is_divided, int size,
                    std::int64_t epochs) {
  return is_divided ? run_in(folder, sharded::Divided{}, size, epochs)
                    : run_in(folder, sharded::Whole{}, size, epochs);
}

}  // namespace

TEST_CASE("a checkpoint does not know between how many ranks a policy was divided") {
  const TemporaryDirectory undisturbed;
  const runs::Result whole = run_in(undisturbed.path(), false, 1, 6);
  const std::vector<std::pair<bool, int>> ways{
      {false, 1}, {false, 3}, {true, 1}, {true, 3}, {true, 4}};
  for (const auto& [first_divided, first] : ways) {
    for (const auto& [second_divided, second] : ways) {
      INFO(first << (first_divided ? " divided" : "") << " ranks, then " << second
                 << (second_divided ? " divided" : ""));
      const TemporaryDirectory folder;
      run_in(folder.path(), first_divided, first, 3);
      CHECK(cf::checkpoints_in(folder.path()).size() == 2);
      const runs::Result result = run_in(folder.path(), second_divided, second, 6);
      CHECK(result.report.epochs == 6);
      CHECK(runs::difference(whole, result) == "");
      if (first == 1 && second == 1) CHECK(runs::same_bits(whole, result));
    }
  }
}

TEST_CASE("what several ranks write is the file of one") {
  const TemporaryDirectory of_one, of_several;
  run_in(of_one.path(), false, 3, 2);
  run_in(of_several.path(), true, 3, 2);
  const auto one = cf::checkpoints_in(of_one.path()),
             several = cf::checkpoints_in(of_several.path());
  for (const char* name : {"state.safetensors", "optimizer.safetensors"}) {
    const auto a = cf::read_safetensors(one.at(0) / name),
               b = cf::read_safetensors(several.at(0) / name);
    REQUIRE(a.tensors.size() == b.tensors.size());
    for (const auto& [tensor, values] : a.tensors) {
      INFO(tensor);
      CHECK(at::equal(values, b.tensors.at(tensor)));
    }
  }
  CHECK(cf::read_json(one.at(0) / "optimizer.json") ==
        cf::read_json(several.at(0) / "optimizer.json"));
}

TEST_CASE("a checkpoint that cannot be written, or loaded, is an error on all ranks") {
  const TemporaryDirectory folder;
  cf::write_file(folder.path() / "file", "x");
  CHECK_THROWS_AS(cf::Team(3).run([&](const cf::TeamRank& rank) {
    auto trainer = trainer_of(sharded::Divided{}, rank);
    trainer.run(1);
    cf::save_checkpoint(trainer, folder.path() / "file" / "below");
    rank.agree(false);
  }),
                  cf::WriteError);
  check_error(
      [&] {
        cf::Team(2).run([&](const cf::TeamRank& rank) {
          cf::Trainer trainer(cf::ShardedPolicy(small::model(), rank), cf::Euler{}, small::reward(),
                              cf::Nft{}, runs::collection(), runs::descent(), rank);
          trainer.run(1, cf::Checkpoint{.directory = folder.path()});
        });
      },
      "optimizer", "AdamW where it is divided between ranks");
  // Of a larger model, and of another optimiser.
  check_error(
      [&] {
        run_in(folder.path() / "few", sharded::Divided{}, 1, 1);
        auto trainer =
            cf::Trainer(cf::ShardedPolicy(sharded::Few(), cf::Alone{}), cf::Euler{},
                        small::reward(), cf::Nft{} + 0.1 * cf::VelocityKl{}, runs::collection());
        cf::resume(trainer, folder.path() / "few");
      },
      "optimizer", "a state of 2 parameters");
}

TEST_CASE("a disk that is full for a while does not part the ranks") {
  const auto run = [](const std::filesystem::path& folder, rlim_t bytes) {
    const FullDisk disk(bytes);
    return of_team(3, [&](const auto& rank) {
      auto trainer = trainer_of(sharded::Divided{}, rank);
      runs::Result result;
      result.report = trainer.run(4, cf::Checkpoint{.directory = folder, .every = 1},
                                  [&](const cf::EpochReport& report) {
                                    if (report.epoch == 3) disk.lift();
                                  });
      result.tensors = sharded::whole_state(trainer);
      return result;
    })[0];
  };
  const TemporaryDirectory undisturbed, disturbed;
  const runs::Result whole = run(undisturbed.path(), RLIM_INFINITY);
  const runs::Result result = run(disturbed.path(), 100);
  CHECK(result.report.epochs == 4);
  CHECK(runs::same_bits(whole, result));
  CHECK(cf::checkpoints_in(disturbed.path()).size() == 2);
}

TEST_CASE("an epoch that is given up on one rank is undone on all") {
  struct Outcome {
    std::map<std::string, Tensor> before, after;
    runs::Result finished;
    bool gave_up = false;
  };
  const auto given_up_at = [](std::int64_t which) {
    return of_team(3, [&](const auto& rank) {
      auto trainer = trainer_of(sharded::Divided{}, rank);
      trainer.run(1);
      Outcome outcome{sharded::whole_state(trainer), {}, {}};
      std::int64_t asked = 0;
      trainer.watch(cf::EpochWatch([&] { return rank.rank() == 1 && ++asked == which; }));
      try {
        trainer.run_epoch();
      } catch (const cf::EpochGivenUp&) {
        outcome.gave_up = true;
      }
      trainer.watch({});
      outcome.after = sharded::whole_state(trainer);
      outcome.finished = sharded::finished(trainer, 3);
      return outcome;
    });
  };
  const auto undisturbed = of_team(3, [](const auto& rank) {
    auto trainer = trainer_of(sharded::Divided{}, rank);
    return sharded::finished(trainer, 3);
  });
  for (const std::int64_t which : {1, 7, 15, 30}) {
    INFO("asked the " << which << "th time");
    for (const Outcome& of_rank : given_up_at(which)) {
      CHECK(of_rank.gave_up);
      CHECK(runs::same_bits({of_rank.before, {}}, {of_rank.after, {}}));
      CHECK(runs::same_bits(of_rank.finished, undisturbed[0]));
    }
  }
}

TEST_CASE("ranks of a policy and of its trainer are the same") {
  check_error(
      [] {
        cf::Team(2).run([](const cf::TeamRank& rank) {
          const cf::TeamRank other(std::make_shared<cf::detail::TeamTable>(3), rank.rank());
          cf::Trainer(cf::ShardedPolicy(small::model(), other), cf::Euler{}, small::reward(),
                      cf::Nft{}, runs::collection(), rank);
        });
      },
      "communicator", "the rank of the policy");
}
