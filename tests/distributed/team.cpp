// Ranks that are threads, and the one that is alone.

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/distributed/team.hpp>

#include "archetypes/communicators.hpp"
#include "laws/communicator.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using laws::check_error;

TEST_CASE("communicators keep their laws") {
  CHECK(laws::broken_laws(cf::Alone{}) == std::vector<std::string>{});
  for (const int size : {1, 2, 3, 5}) {
    INFO(size << " ranks");
    std::vector<std::vector<std::string>> broken(static_cast<std::size_t>(size));
    cf::Team(size).run([&](const cf::TeamRank& rank) {
      broken[std::size_t(rank.rank())] = laws::broken_laws(archetypes::AnyRank(rank));
      for (const auto& law : laws::broken_laws(rank))
        broken[std::size_t(rank.rank())].push_back(law);
    });
    for (const auto& of_rank : broken) CHECK(of_rank == std::vector<std::string>{});
  }
}

TEST_CASE("shares are a partition, as even as can be") {
  for (const std::int64_t count : {0, 1, 2, 7, 24, 100}) {
    for (const int ranks : {1, 2, 3, 5, 8}) {
      std::int64_t next = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const cf::Share share = cf::share_of(count, rank, ranks);
        CHECK(share.first == next);
        CHECK((share.size() == count / ranks || share.size() == (count + ranks - 1) / ranks));
        next = share.last;
      }
      CHECK(next == count);
    }
  }
}

TEST_CASE("a rank that fails ends the others with its sentence") {
  std::atomic<int> told = 0;
  const auto run = [&] {
    cf::Team(3).run([&](const cf::TeamRank& rank) {
      try {
        for (int i = 0; i < 4; ++i) {
          if (rank.rank() == 1 && i == 2) throw std::runtime_error("out of paper");
          rank.agree(false);
        }
      } catch (const cf::Error& error) {
        if (std::string(error.what()).find("rank 1 (out of paper)") != std::string::npos) ++told;
        throw;
      }
    });
  };
  CHECK_THROWS_WITH(run(), "out of paper");
  CHECK(told == 2);
}

TEST_CASE("a team has a rank at least") {
  check_error([] { cf::Team(0); }, "ranks", "at least 1");
}
