// Sampling by itself: any solver, any callable as velocity, and a hook that sees every step.
#include <iostream>
#include <vector>

#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/integrate.hpp>
#include <contraflow/toy/mixture.hpp>

namespace cf = contraflow;
using cf::Tensor;

int main() {
  //! [integrate]
  const cf::toy::Mixture data = cf::toy::ring();
  const auto velocity = [&](const Tensor& x, double sigma) {
    return data.velocity(x, at::full({x.size(0)}, sigma));
  };
  cf::Generator generator = cf::seeded(0);
  std::vector<Tensor> trajectory;
  const Tensor noise = cf::normal({256, 2}, generator);
  const Tensor x0 = cf::integrate(cf::DpmSolver<2>{}, velocity, noise, cf::sd3_grid(20), generator,
                                  [&](const cf::Step&, const Tensor&, const Tensor& next,
                                      const auto& /*state*/) { trajectory.push_back(next); });
  //! [integrate]
  std::cout << "mean radius of the noise: " << noise.norm(2, 1).mean().item<double>()
            << ", of the samples: " << x0.norm(2, 1).mean().item<double>() << '\n';
  return trajectory.size() == 20 && trajectory.back().equal(x0) ? 0 : 1;
}
