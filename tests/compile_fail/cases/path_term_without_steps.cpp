// expect: a Term on the path of samples must say at which steps it wants their states
#include <contraflow/contraflow.hpp>

namespace cf = contraflow;

struct EndOfPath {
  using Velocities = cf::Roles<cf::Role::current>;
  using Points = cf::RecordedPath;
  static constexpr std::string_view name = "end_of_path";

#ifdef POSITIVE_CONTROL
  std::vector<std::size_t> steps(const cf::TimeGrid& grid, cf::Generator&) const {
    return {grid.steps() - 1};
  }
#endif
  template <class Batch>
  cf::Tensor loss(const Batch& batch, const cf::Tensor&, cf::Statistics&) const {
    return -batch.reward(batch.states[0]);
  }
};
void run() { cf::as_sum(EndOfPath{}); }
