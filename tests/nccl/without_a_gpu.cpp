// What can be shown of Nccl on a machine without a GPU: that it compiles, links with NCCL, is a
// Communicator, and says what it lacks.

#include <iostream>
#include <string>

#include <c10/cuda/CUDAFunctions.h>

#include <contraflow/distributed/nccl.hpp>
#include <contraflow/distributed/team.hpp>

namespace cf = contraflow;

static_assert(cf::Communicator<cf::Nccl<cf::TeamRank>>);
static_assert(cf::Communicator<cf::Nccl<cf::Alone>>);
static_assert(cf::HasSumTo<cf::Nccl<cf::Alone>> && cf::HasBroadcastFrom<cf::Nccl<cf::Alone>>);
// A member of a template is compiled where it is named.
template class cf::Nccl<cf::TeamRank>;

namespace {

template <class F>
bool throws(const std::string& text, F&& f) {
  try {
    f();
  } catch (const cf::Error& error) {
    if (error.what() == text) return true;
    std::cout << error.what() << '\n';
  }
  std::cout << "not thrown: " << text << '\n';
  return false;
}

}  // namespace

int main() {
  if (c10::cuda::device_count() > 0) {
    std::cout << "there is a GPU\n";
    return 77;
  }
  const bool wants_gpus =
      throws("nccl: expected a GPU for each rank of a machine, got 0 for rank 0 of it",
             [] { cf::Nccl(cf::Alone{}); });
  const bool takes_none_else = throws("device: expected a GPU with its number, got cpu",
                                      [] { cf::Nccl(cf::Alone{}, at::Device(at::kCPU)); });
  const bool names_errors = throws(
      "sum: expected NCCL to succeed, got " + std::string(ncclGetErrorString(ncclInternalError)),
      [] { cf::detail::expects_nccl(ncclInternalError, "sum"); });
  return wants_gpus && takes_none_else && names_errors ? 0 : 1;
}
