// expect: every name may be used once
#include <contraflow/reward/combination.hpp>

namespace cf = contraflow;
using namespace cf::literals;

auto run() {
  const auto reward = [](const cf::Tensor& x0) { return x0; };
#ifdef POSITIVE_CONTROL
  return cf::rewards("shape"_r = reward, "colour"_r = reward);
#else
  return cf::rewards("shape"_r = reward, "shape"_r = reward);
#endif
}
