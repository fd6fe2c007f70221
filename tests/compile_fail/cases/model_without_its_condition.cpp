// expect: a FlowModel must be callable as `model(x_t, t)` or as `model(x_t, t, condition)`
#include <contraflow/model/concept.hpp>

namespace cf = contraflow;

cf::Tensor run(const cf::Tensor& x, const cf::Tensor& t) {
  auto model = [](const cf::Tensor& x_t, const cf::Tensor&) { return x_t; };
#ifdef POSITIVE_CONTROL
  return cf::velocity_of(model, x, t, cf::Unconditional{});
#else
  return cf::velocity_of(model, x, t, /*condition=*/x);
#endif
}
