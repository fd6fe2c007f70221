// Models of other conventions: what they predict and how they count time is converted at the edge.
#include <iostream>

#include <contraflow/model/conversions.hpp>
#include <contraflow/path/rectified_flow.hpp>

namespace cf = contraflow;
using cf::Tensor;

bool predictions_agree() {
  const Tensor x0 = at::randn({8, 2}), eps = at::randn({8, 2}), t = at::full({8}, 0.25);
  //! [path]
  const Tensor x_t = cf::interpolate(x0, eps, t);       // (1 - t) x0 + t eps
  const Tensor v = cf::velocity_target(x0, eps);        // eps - x0
  const Tensor back = cf::x0_from_velocity(x_t, v, t);  // x_t - t v
  //! [path]
  return back.allclose(x0, 1e-5, 1e-6);
}

int main() {
  //! [conversions]
  // A model of another library: predicts the noise, counts time from 0 to 1000.
  auto predicts_noise = [](const Tensor& x_t, const Tensor& t) {
    return x_t * (t / 1000).unsqueeze(1);
  };
  auto velocity = cf::PredictsEps(cf::ScaledTime(predicts_noise, 1000));
  static_assert(cf::FlowModel<decltype(velocity)>);
  //! [conversions]
  const Tensor v = velocity(at::ones({1, 2}), at::full({1}, 0.5));
  std::cout << "velocity: " << v << '\n';
  return v.allclose(-at::ones({1, 2})) && predictions_agree() ? 0 : 1;
}
