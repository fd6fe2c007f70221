// expect: a Term must declare the velocities it needs
#include <contraflow/objective/algebra.hpp>

namespace cf = contraflow;

struct Drift {
#ifdef POSITIVE_CONTROL
  using Velocities = cf::Roles<cf::Role::current>;
#endif
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "drift";
  template <class Batch>
  cf::Tensor loss(const Batch& batch, const cf::Tensor&, cf::Statistics&) const {
    return cf::mean_per_sample(batch.x_t);
  }
};

auto run() { return 0.5 * Drift{}; }
