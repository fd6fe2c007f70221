// expect: a Term on the path of samples asks for velocities itself
#include <contraflow/contraflow.hpp>

namespace cf = contraflow;

struct EndOfPath {
#ifdef POSITIVE_CONTROL
  using Velocities = cf::Roles<cf::Role::current>;
#else
  using Velocities = cf::Roles<cf::Role::current, cf::Role::reference>;
#endif
  using Points = cf::RecordedPath;
  static constexpr std::string_view name = "end_of_path";

  std::vector<std::size_t> steps(const cf::TimeGrid& grid, cf::Generator&) const {
    return {grid.steps() - 1};
  }
  template <class Batch>
  cf::Tensor loss(const Batch& batch, const cf::Tensor&, cf::Statistics&) const {
    return -batch.reward(batch.states[0]);
  }
};
void run() { cf::as_sum(EndOfPath{}); }
