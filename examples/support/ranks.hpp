#pragma once

#include <utility>

#ifdef CONTRAFLOW_EXAMPLES_MPI
#include <contraflow/distributed/mpi.hpp>
#else
#include <contraflow/distributed/communicator.hpp>
#endif

namespace support {

/// The processes that mpirun or srun started; one without them, or where there is no MPI.
#ifdef CONTRAFLOW_EXAMPLES_MPI
using Ranks = contraflow::Mpi;
#else
struct Ranks : contraflow::Alone {
  Ranks(int&, char**&) {}
};
#endif

inline bool is_first(const Ranks& ranks) { return ranks.rank() == 0; }

/// Lets the first rank do what all need done, such as a file; the others wait.
template <class F>
void by_first(const Ranks& ranks, F&& work) {
  if (is_first(ranks)) std::forward<F>(work)();
  ranks.agree(false);
}

}  // namespace support
