// expect: this key is not in the map
#include <contraflow/objective/batch.hpp>

namespace cf = contraflow;

cf::Tensor run(const cf::ForwardBatch<cf::Roles<cf::Role::current>>& batch) {
#ifdef POSITIVE_CONTROL
  return cf::velocity<cf::Role::current>(batch);
#else
  return cf::velocity<cf::Role::reference>(batch);
#endif
}
