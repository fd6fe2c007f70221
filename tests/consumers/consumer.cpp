// A user's first program: each of the three projects builds and runs it. It includes little, since
// what they show is how the library is found.

#include <iostream>

#include <contraflow/core/random.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/integrate.hpp>
#include <contraflow/time/grid.hpp>
#include <contraflow/version.hpp>

namespace cf = contraflow;

int main() {
  const auto velocity = [](const cf::Tensor& x, double) { return x; };
  cf::Generator generator = cf::seeded(1);
  const cf::Tensor noise = cf::normal({4, 2}, generator);
  const cf::Tensor x =
      cf::integrate(cf::DpmSolver<2>{}, velocity, noise, cf::uniform_grid(10), generator);
  std::cout << "contraflow " << cf::version.major << '.' << cf::version.minor << ": " << x.size(0)
            << " samples\n";
  // The velocity points from data to noise: following it back shrinks the samples.
  return x.norm().item<double>() < noise.norm().item<double>() ? 0 : 1;
}
