// A network with labels as a module that can be cloned: everything is made in reset().
#include <iostream>

#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>

#include <contraflow/contraflow.hpp>

namespace cf = contraflow;
using cf::Tensor;

//! [model]
/// A network of the user's: two layers, and an embedding of the class.
struct TinyFlowImpl : torch::nn::Cloneable<TinyFlowImpl> {
  explicit TinyFlowImpl(std::int64_t classes) : classes_(classes) { reset(); }

  void reset() override {
    const std::int64_t width = 64;
    in_ = register_module("in", torch::nn::Linear(3, width));
    out_ = register_module("out", torch::nn::Linear(width, 2));
    label_ = register_module("label", torch::nn::Embedding(classes_, width));
  }
  Tensor forward(const Tensor& x_t, const Tensor& t, const Tensor& labels) {
    return out_(at::silu(in_(at::cat({x_t, t.unsqueeze(1)}, 1)) + label_(labels)));
  }
  std::vector<std::int64_t> sample_shape() const { return {2}; }

 private:
  std::int64_t classes_;
  torch::nn::Linear in_{nullptr}, out_{nullptr};
  torch::nn::Embedding label_{nullptr};
};
TORCH_MODULE(TinyFlow);
static_assert(cf::TrainableModel<TinyFlow, Tensor>);
static_assert(!cf::FlowModel<TinyFlow>);  // it wants its labels
//! [model]

int main() {
  at::set_num_threads(1);  // what so small a network takes
  at::manual_seed(0);      // of the network's first weights
  // Class 0 is wanted on the left, class 1 on the right.
  const auto reward = [](const Tensor& x0, const Tensor& labels) {
    return x0.select(1, 0) * (2 * labels - 1) > 0;
  };
  auto trainer = cf::Trainer(cf::SnapshotPolicy(TinyFlow(2)), cf::Euler{}, reward, cf::Nft{},
                             cf::class_prompts(2), cf::Collection{.prompts_per_epoch = 8},
                             cf::Optimization{.optimizer = cf::adamw({.learning_rate = 5e-3})});
  trainer.run(30);
  const double after = trainer.evaluate().reward;
  std::cout << "share on the right side: " << after << '\n';
  return after > 0.8 ? 0 : 1;
}
