// Started by mpirun: the laws of Mpi, runs of several processes against those of one, and runs that
// are to fail or to be killed.
//
//   ranks laws | runs | sharded | fail | differ | train FOLDER | begin FOLDER

#include <exception>
#include <iostream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/distributed/mpi.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "distributed/sharded_runs.hpp"
#include "laws/communicator.hpp"

namespace cf = contraflow;
namespace runs = distributed_runs;
using archetypes::AnyRank;

namespace {

// What is wrong, said by the first rank for all.
int told(const cf::Mpi& mpi, const std::vector<std::string>& own) {
  const std::vector<std::string> faults = cf::gathered_lines(mpi, own);
  if (mpi.rank() == 0) {
    for (const std::string& fault : faults) std::cout << fault << '\n';
    std::cout << mpi.size() << " ranks, " << faults.size() << " faults\n";
  }
  return faults.empty() ? 0 : 1;
}

// Where runs differ by more than rounding, or ranks at all.
std::vector<std::string> faults_of(const cf::Mpi& mpi, const std::string& name,
                                   const runs::Result& expected, const runs::Result& found) {
  std::vector<std::string> faults;
  const std::string difference = runs::difference(expected, found);
  if (!difference.empty()) faults.push_back(name + ": " + difference);
  for (const auto& [tensor, values] : found.tensors) {
    const cf::Tensor all = mpi.gather(values.reshape({1, -1}));
    if (!all.eq(all[0]).all().item<bool>()) faults.push_back(name + ": ranks differ in " + tensor);
  }
  return faults;
}

int compare(const cf::Mpi& mpi) {
  std::vector<std::string> faults;
  const auto alone = runs::all(AnyRank(cf::Alone{})), together = runs::all(AnyRank(mpi));
  for (const auto& [name, result] : alone) {
    for (const auto& fault : faults_of(mpi, name, result, together.at(name))) {
      faults.push_back(fault);
    }
  }
  return told(mpi, faults);
}

// Runs of a policy that is divided between the ranks, and of one that each of them has.
int compare_sharded(const cf::Mpi& mpi) {
  namespace sharded = sharded_runs;
  const auto both = [&](const auto& make) {
    return std::map<std::string, runs::Result>{
        {"NFT", sharded::nft(make, mpi, sharded::wide_model(), 20)},
        {"GRPO", sharded::grpo(make, mpi, sharded::wide_model(), 20)}};
  };
  const auto whole = both(sharded::Whole{}), once = both(sharded::Divided{}),
             again = both(sharded::Divided{});
  std::vector<std::string> faults;
  for (const auto& [name, result] : whole) {
    for (const auto& fault : faults_of(mpi, name, result, once.at(name))) faults.push_back(fault);
    if (!runs::same_bits(once.at(name), again.at(name))) faults.push_back(name + ": not each time");
  }
  return told(mpi, faults);
}

auto trainer(const cf::Mpi& mpi, std::uint64_t seed = 7) {
  return cf::Trainer(small::policy(), cf::Euler{}, runs::WithGaps{}, cf::Nft{}, runs::collection(),
                     runs::descent(), cf::Seed{seed}, AnyRank(mpi));
}

// Ends with the bits of all weights as a text.
int train(const cf::Mpi& mpi, const std::string& folder) {
  auto trained = trainer(mpi);
  cf::resume(trained, folder);
  trained.run(40, cf::Checkpoint{.directory = folder, .every = 1});
  std::string bits;
  for (const auto& [name, tensor] : trained.state().tensors) bits += cf::bits_text(tensor);
  if (mpi.rank() == 0) std::cout << std::hash<std::string>{}(bits) << '\n';
  return 0;
}

// A run that does not look whether there is another.
int begin(const cf::Mpi& mpi, const std::string& folder) {
  trainer(mpi).run(2, cf::Checkpoint{.directory = folder});
  return 0;
}

int fail(const cf::Mpi& mpi) {
  trainer(mpi).run(40, [&](auto& of_run, cf::EpochReport&) {
    if (mpi.rank() == mpi.size() - 1 && of_run.epoch() == 3) {
      throw std::runtime_error("out of paper on the last rank");
    }
  });
  return 0;
}

int answer(const cf::Mpi& mpi, const std::vector<std::string>& words) {
  const std::string& word = words.at(1);
  if (word == "laws") return told(mpi, laws::broken_laws(mpi));
  if (word == "runs") return compare(mpi);
  if (word == "sharded") return compare_sharded(mpi);
  if (word == "fail") return fail(mpi);
  if (word == "train") return train(mpi, words.at(2));
  if (word == "begin") return begin(mpi, words.at(2));
  if (word == "differ") {
    trainer(mpi, mpi.rank() == 0 ? 7 : 8).run(1);
    return 0;
  }
  throw cf::Error("word", "laws, runs, sharded, fail, differ, train or begin", word);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    at::set_num_threads(1);
    const cf::Mpi mpi(argc, argv);
    return answer(mpi, {argv, argv + argc});
  } catch (const std::exception& failure) {
    std::cerr << failure.what() << std::endl;
    return 1;
  }
}
