// Labels and guidance: a class-conditional flow, guided away from the class that asks for nothing.
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/mixture.hpp>

namespace cf = contraflow;
using cf::Tensor;

int main() {
  at::set_num_threads(1);  // what so small a network takes
  // Classes 1 to 8 are the modes of the ring; class 0 stands for no condition.
  const cf::toy::Mixture ring = cf::toy::ring();
  const auto labelled = [&](std::int64_t count, cf::Generator& generator) {
    const Tensor x0 = ring(count, generator);
    const Tensor label = at::cdist(x0, ring.means()).argmin(1) + 1;
    const Tensor is_told = cf::uniform({count}, generator) > 0.5;
    return cf::ConditionedData<Tensor>{x0, label * is_told};
  };
  //! [guidance]
  auto model = cf::MlpVelocity({.dimension = 2, .width = 64, .depth = 2, .classes = 9});
  cf::pretrain(model, labelled, cf::Pretraining{.steps = 600});
  const Tensor nothing = at::zeros({1}, at::kLong);
  const cf::Guided guided(model, nothing, /*scale=*/2.5);
  //! [guidance]

  /// Share of samples whose nearest mode is the one that was asked for.
  const auto accuracy = [&](auto velocity_model) {
    const Tensor label = at::arange(1, 9).repeat({100});
    const auto velocity = [&](const Tensor& x, double sigma) {
      return cf::velocity_of(velocity_model, x, at::full({x.size(0)}, sigma), label);
    };
    cf::Generator generator = cf::seeded(1);
    const Tensor noise = cf::normal({800, 2}, generator);
    const Tensor x0 =
        cf::sampled(cf::DpmSolver<2>{}, velocity, noise, cf::uniform_grid(20), generator);
    return (at::cdist(x0, ring.means()).argmin(1) + 1 == label)
        .to(at::kDouble)
        .mean()
        .item<double>();
  };
  const double plain = accuracy(model), with_guidance = accuracy(guided);
  std::cout << "right mode without guidance: " << plain << ", with: " << with_guidance << '\n';
  return with_guidance >= plain ? 0 : 1;
}
