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
}
