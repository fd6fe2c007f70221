#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#ifdef CONTRAFLOW_EXAMPLES_MPI
#include <contraflow/distributed/mpi.hpp>
#else
#include <contraflow/distributed/communicator.hpp>
#endif

namespace support {

#ifdef CONTRAFLOW_EXAMPLES_MPI
/// The processes that mpirun or srun started; one without them, or where there is no MPI.
class Ranks {
 public:
  Ranks(int& argc, char**& argv) : all_(argc, argv) {}

  /// This rank by itself: for what it trains without the others.
  Ranks alone() const {
    Ranks result = *this;
    result.is_alone_ = true;
    return result;
  }

  int rank() const { return is_alone_ ? 0 : all_.rank(); }
  int size() const { return is_alone_ ? 1 : all_.size(); }
  void sum(const std::vector<contraflow::Tensor>& tensors) const {
    if (!is_alone_) all_.sum(tensors);
  }
  contraflow::Tensor gather(const contraflow::Tensor& rows) const {
    return is_alone_ ? rows : all_.gather(rows);
  }
  void broadcast(const std::vector<contraflow::Tensor>& tensors) const {
    if (!is_alone_) all_.broadcast(tensors);
  }
  bool agree(bool flag) const { return is_alone_ ? flag : all_.agree(flag); }
  std::int64_t bytes_sent() const { return is_alone_ ? 0 : all_.bytes_sent(); }

 private:
  contraflow::Mpi all_;
  bool is_alone_ = false;
};
#else
/// One rank: there is no MPI.
struct Ranks : contraflow::Alone {
  Ranks(int&, char**&) {}
  Ranks alone() const { return *this; }
};
#endif

inline bool is_first(const Ranks& ranks) { return ranks.rank() == 0; }

/// Lets the first rank do what all need done, such as a file; the others wait.
template <class F>
void by_first(const Ranks& ranks, F&& work) {
  if (is_first(ranks)) std::forward<F>(work)();
  ranks.agree(false);
}

/// Who needs what came of all pieces of work.
enum class NeededBy { all, first };

/// Divides pieces of work between the ranks. A piece leaves what came of it in files, and is only
/// read from there once it is done: so a rank does its own, and when all have, those of the others.
/// @param work called with a list of the numbers of pieces
template <class F>
void divided(const Ranks& ranks, std::size_t pieces, NeededBy needed_by, F&& work) {
  std::vector<std::size_t> own, others;
  for (std::size_t i = 0; i < pieces; ++i) {
    const bool is_own = i % std::size_t(ranks.size()) == std::size_t(ranks.rank());
    (is_own ? own : others).push_back(i);
  }
  work(std::as_const(own));
  ranks.agree(false);
  if (needed_by == NeededBy::all || is_first(ranks)) work(std::as_const(others));
}

}  // namespace support
