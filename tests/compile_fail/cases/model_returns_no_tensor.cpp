// expect: a FlowModel must return a torch::Tensor, the velocity, of the shape of x_t
#include <contraflow/model/concept.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Result = cf::Tensor;
#else
struct Result {
  cf::Tensor velocity;
};
#endif

cf::Tensor run(const cf::Tensor& x, const cf::Tensor& t) {
  auto model = [](const cf::Tensor& x_t, const cf::Tensor&) { return Result{x_t}; };
  return cf::velocity_of(model, x, t, cf::Unconditional{});
}
