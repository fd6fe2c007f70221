// Your own network and your own reward: any torch module, any callable.
#include <iostream>

#include <torch/torch.h>

#include <contraflow/contraflow.hpp>

namespace cf = contraflow;
using torch::Tensor;

int main() {
  at::set_num_threads(1);  // what so small a network takes
  torch::manual_seed(0);   // of the network's first weights; the library draws from its own seeds
  torch::nn::Sequential net(torch::nn::Linear(3, 64), torch::nn::SiLU(), torch::nn::Linear(64, 64),
                            torch::nn::SiLU(), torch::nn::Linear(64, 2));
  cf::ModuleVelocity model(net, [](auto& module, const Tensor& x_t, const Tensor& t) {
    return module->forward(torch::cat({x_t, t.unsqueeze(1)}, 1));
  });

  // It learns its data: points of the square from -1 to 1.
  const auto square = [](std::int64_t count, cf::Generator& generator) {
    return cf::uniform({count, 2}, generator) * 2 - 1;
  };
  cf::pretrain(model, square, cf::Pretraining{.steps = 1000});

  // And then what is wanted: points on the right, of which there is a quarter.
  const auto reward = [](const Tensor& x0) { return x0.select(1, 0) > 0.5; };
  auto trainer =
      cf::Trainer(cf::SnapshotPolicy(model), cf::DpmSolver<2>{}, reward,
                  cf::Nft{} + 0.01 * cf::VelocityKl{}, cf::Collection{.sample_shape = {2}},
                  cf::Optimization{.optimizer = cf::adamw({.learning_rate = 3e-3})});
  const double before = trainer.evaluate().reward;
  trainer.run(30);
  const double after = trainer.evaluate().reward;
  std::cout << "reward before: " << before << ", after: " << after << '\n';
  return after > 0.9 ? 0 : 1;
}
