// expect: a model that is trained needs its torch module
#include <contraflow/model/mlp.hpp>
#include <contraflow/policy/snapshot_policy.hpp>

namespace cf = contraflow;

void run() {
#ifdef POSITIVE_CONTROL
  cf::SnapshotPolicy policy(cf::MlpVelocity({}));
#else
  cf::SnapshotPolicy policy([](const cf::Tensor& x_t, const cf::Tensor&) { return x_t; });
#endif
  policy.keep(cf::Roles<cf::Role::old>{});
}
