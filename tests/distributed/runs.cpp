// Runs of several ranks are those of one.

#include "distributed/runs.hpp"

#include <atomic>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/distributed/team.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
namespace runs = distributed_runs;
using archetypes::AnyRank;
using cf::Tensor;
using laws::check_error;

namespace {

/// What each rank of a team gives.
template <class Body>
auto of_team(int size, Body&& body) {
  std::vector<decltype(body(AnyRank(cf::Alone{})))> results(static_cast<std::size_t>(size));
  cf::Team(size).run(
      [&](const cf::TeamRank& rank) { results[std::size_t(rank.rank())] = body(AnyRank(rank)); });
  return results;
}

}  // namespace

TEST_CASE("ranks come to what one comes to, and all to the same bits, each time") {
  const auto alone = runs::all(cf::Alone{});
  for (const int size : {1, 2, 3, 5}) {
    INFO(size << " ranks");
    const auto run = [](const AnyRank& rank) { return runs::all(rank); };
    const auto once = of_team(size, run), again = of_team(size, run);
    for (const auto& [name, result] : alone) {
      INFO(name);
      CHECK(runs::difference(result, once[0].at(name)) == "");
      for (const auto& of_rank : once) CHECK(runs::same_bits(of_rank.at(name), once[0].at(name)));
      CHECK(runs::same_bits(again[0].at(name), once[0].at(name)));
    }
  }
  CHECK(alone.at("NFT").report.last.find("reward/masked") > 0.0);
  CHECK(alone.at("opinions").report.last.find("abstained/b") > 0.0);
  CHECK(alone.at("opinions").report.last.find("reward/failed_groups") > 0.0);
}

namespace {

template <class Comm>
auto trainer_of(const Comm& ranks, std::uint64_t seed = 7) {
  return cf::Trainer(small::policy(), cf::Euler{}, runs::WithGaps{}, cf::Nft{}, runs::collection(),
                     runs::descent(), cf::Seed{seed}, ranks);
}

// A run of @p size ranks to @p epochs in total, from and to a folder.
runs::Result run_in(const std::filesystem::path& folder, int size, std::int64_t epochs) {
  return of_team(size, [&](const AnyRank& rank) {
    auto trainer = trainer_of(rank);
    cf::resume(trainer, folder);
    runs::Result result;
    result.report = trainer.run(epochs, cf::Checkpoint{.directory = folder});
    for (const auto& [name, tensor] : trainer.state().tensors) {
      result.tensors.emplace(name, tensor.detach().clone());
    }
    return result;
  })[0];
}

}  // namespace

TEST_CASE("a checkpoint does not know how many ranks there were") {
  std::map<int, runs::Result> whole;
  for (const int size : {1, 2, 4}) {
    const TemporaryDirectory folder;
    whole[size] = run_in(folder.path(), size, 6);
  }
  for (const int first : {1, 2, 4}) {
    for (const int second : {1, 2, 4}) {
      INFO(first << " ranks, then " << second);
      const TemporaryDirectory folder;
      run_in(folder.path(), first, 3);
      CHECK(cf::checkpoints_in(folder.path()).size() == 1);
      const runs::Result result = run_in(folder.path(), second, 6);
      CHECK(result.report.epochs == 6);
      CHECK(runs::difference(whole[1], result) == "");
      if (first == second) CHECK(runs::same_bits(whole[first], result));
    }
  }
}

TEST_CASE("what the ranks give to each other is reported") {
  std::vector<double> bytes(2), memory(2);
  std::int64_t weights = 0;
  cf::Team(2).run([&](const cf::TeamRank& rank) {
    auto trainer = trainer_of(rank);
    trainer.run_epoch();
    const cf::EpochReport report = trainer.run_epoch();
    bytes[std::size_t(rank.rank())] = *report.find("ranks/bytes");
    memory[std::size_t(rank.rank())] = *report.find("ranks/peak_memory");
    if (rank.rank() != 0) return;
    for (const Tensor& weight : trainer.policy().parameters()) weights += weight.numel() * 4;
  });
  // Gradients of the one step of each rank, and what goes with the samples.
  CHECK(bytes[0] > 2.0 * double(weights));
  CHECK(bytes[0] < 2.0 * double(weights) + 8192);
  CHECK(bytes[0] == bytes[1]);
  CHECK(memory[0] > 1e6);
  CHECK(memory[0] == memory[1]);

  // One by itself gives nothing to anybody, and its reports are the same in each run.
  cf::EpochReport of_one;
  cf::Team(1).run([&](const cf::TeamRank& rank) { of_one = trainer_of(rank).run_epoch(); });
  CHECK(!of_one.knows("ranks/bytes"));
  CHECK(!of_one.knows("ranks/peak_memory"));
}

TEST_CASE("ranks refuse together a folder that is another run's") {
  const TemporaryDirectory folder;
  const auto numbers = of_team(3, [&](const AnyRank& rank) {
    auto trainer = trainer_of(rank);
    trainer.run(1, cf::Checkpoint{.directory = folder.path()});
    return trainer.run_number();
  });
  CHECK(numbers == std::vector(3, numbers[0]));
  check_error(
      [&] {
        cf::Team(3).run([&](const cf::TeamRank& rank) {
          trainer_of(AnyRank(rank)).run(1, cf::Checkpoint{.directory = folder.path()});
        });
      },
      folder.path().string(), "epoch 1 of another run");
}

namespace {

struct Told {
  std::vector<std::string> quantities;
  int epochs = 0, measured = 0, behind = 0, everywhere = 0;
};
struct Listener {
  Told* told;
  void operator()(const cf::EpochReport&) { ++told->epochs; }
  void warn(const cf::Warning& warning) { told->quantities.push_back(warning.quantity); }
  template <class T>
  void after(T&, const cf::EpochReport&) {
    ++told->behind;
  }
};
struct Everywhere {
  static constexpr bool on_every_rank = true;
  Told* told;
  void operator()(const cf::EpochReport&) { ++told->everywhere; }
};

}  // namespace

TEST_CASE("observers are told by the first rank, and warnings once") {
  const auto run = [](const AnyRank& rank) {
    Told told;
    const auto broken = [](const Tensor&) -> Tensor { throw std::runtime_error("no paper"); };
    cf::Trainer trainer(small::policy(), cf::Euler{}, broken, cf::Nft{}, runs::collection(), rank);
    trainer.run(2, Listener{&told}, Everywhere{&told}, [&](auto&, cf::EpochReport& report) {
      report.add("mine", double(++told.measured));
    });
    return told;
  };
  const auto all = of_team(3, run);
  using Words = std::vector<std::string>;
  CHECK(all[0].quantities ==
        Words{"reward/failure", "reward/masked", "reward/failure", "reward/masked"});
  for (int rank = 0; rank < 3; ++rank) {
    INFO("rank " << rank);
    CHECK(all[std::size_t(rank)].epochs == (rank == 0 ? 2 : 0));
    CHECK(all[std::size_t(rank)].measured == 2);
    CHECK(all[std::size_t(rank)].behind == 2);
    CHECK(all[std::size_t(rank)].everywhere == 2);
    if (rank > 0) CHECK(all[std::size_t(rank)].quantities.empty());
  }
}

namespace {

// Asks for the end after two epochs, on one rank.
struct Stops {
  static constexpr bool on_every_rank = true;
  bool here;
  cf::Verdict operator()(const cf::EpochReport& report) const {
    return {here && report.epoch == 2, "the last rank is tired", {}};
  }
};

}  // namespace

TEST_CASE("ranks end together, for the reason of the one that asked") {
  const auto reports = of_team(3, [](const AnyRank& rank) {
    auto trainer = trainer_of(rank);
    return trainer.run(9, Stops{rank.rank() == 2});
  });
  for (const cf::RunReport& report : reports) {
    CHECK(report.epochs == 2);
    CHECK(report.stopped);
    CHECK(report.reason == "the last rank is tired");
  }
}

TEST_CASE("what is not finite on one rank is skipped on all") {
  const auto results = of_team(3, [](const AnyRank& rank) {
    auto model = small::model();
    const bool breaks = rank.rank() == 1;
    const cf::ModuleVelocity velocity(
        model, [breaks](auto& module, const Tensor& x, const Tensor& t) {
          const Tensor v = module->forward(x, t);
          return breaks && v.requires_grad() ? v * std::numeric_limits<float>::infinity() : v;
        });
    const auto policy = cf::SnapshotPolicy(velocity);
    cf::Trainer trainer(policy, cf::Euler{}, small::reward(), cf::Nft{}, runs::collection(),
                        runs::descent(), cf::Seed{7}, rank);
    return *trainer.run(2).last.find("skipped_steps");
  });
  for (const double skipped : results) CHECK(skipped == 1);
}

TEST_CASE("ranks that start in different ways are refused by name") {
  const auto refused = [](auto&& trainer_of_rank, const char* name, const char* came) {
    check_error(
        [&] {
          cf::Team(3).run([&](const cf::TeamRank& rank) { trainer_of_rank(AnyRank(rank)).run(1); });
        },
        name, came);
  };
  refused([](const AnyRank& rank) { return trainer_of(rank, rank.rank() == 2 ? 8 : 7); }, "seed",
          "7 as on rank 0, got 8 on rank 2");
  refused(
      [](const AnyRank& rank) {
        return cf::Trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{},
                           runs::collection(rank.rank() == 1 ? 6 : 5), rank);
      },
      "prompts_per_epoch", "got 6 on rank 1");
  refused(
      [](const AnyRank& rank) {
        const double rate = rank.rank() == 2 ? 0.5 : 0.25;
        return cf::Trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{},
                           runs::collection(), cf::Optimization{.optimizer = small::descent(rate)},
                           rank);
      },
      "learning_rate", "0.25 as on rank 0, got 0.5 on rank 2");
  refused(
      [](const AnyRank& rank) {
        return cf::Trainer(cf::SnapshotPolicy(small::model(rank.rank() == 1 ? 2 : 1)), cf::Euler{},
                           small::reward(), cf::Nft{}, runs::collection(), rank);
      },
      "weights of average.hidden1_weight", "on rank 1");
}

namespace {

// Does not ask which rank it is.
struct Everything {
  template <class P, class Prompts>
  cf::Rollout<cf::NothingRecorded> collect(const cf::CollectorContext<P, Prompts>&) const {
    const Tensor numbers = at::zeros({4}, at::kLong);
    return {laws::floats({4, 2}), numbers, numbers, at::arange(4), {}};
  }
};

}  // namespace

namespace {

// Gives each rank half of the one group there is.
struct HalfAGroup {
  template <class P, class Prompts>
  cf::Rollout<cf::NothingRecorded> collect(const cf::CollectorContext<P, Prompts>& context) const {
    const cf::Share own = context.share(4);
    const Tensor ids = at::arange(own.first, own.last, at::kLong);
    return {laws::floats({4, 2}).slice(0, own.first, own.last),
            at::zeros_like(ids),
            at::zeros_like(ids),
            ids,
            {}};
  }
};

}  // namespace

TEST_CASE("a pair whose samples two ranks have is an error, and not left out") {
  check_error(
      [] {
        cf::Team(2).run([](const cf::TeamRank& rank) {
          const auto to_the_right = [](const Tensor& x0) { return x0.select(1, 0); };
          cf::Trainer trainer(small::policy(), HalfAGroup{}, to_the_right, cf::Dpo{},
                              AnyRank(rank));
          trainer.run(1);
        });
      },
      "collector", "a pair of two ranks");
}

TEST_CASE("a collector that gives every rank the same samples is refused") {
  check_error(
      [] {
        cf::Team(2).run([](const cf::TeamRank& rank) {
          cf::Trainer trainer(small::policy(), Everything{}, small::reward(), cf::Nft{},
                              AnyRank(rank));
          trainer.run(1);
        });
      },
      "collector", "sample 0 twice");
}
