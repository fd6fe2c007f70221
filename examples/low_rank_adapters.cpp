// Training low-rank adapters on a base that is kept once: what a model too large for clones takes.
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/network/layers.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using cf::Tensor;

/// A network whose layers take adapters: LoraLinear in the place of torch::nn::Linear.
struct AdaptableImpl : torch::nn::Cloneable<AdaptableImpl> {
  AdaptableImpl() { reset(); }
  void reset() override {
    in_ = register_module("in", std::make_shared<cf::LoraLinear>(3, 128));
    middle_ = register_module("middle", std::make_shared<cf::LoraLinear>(128, 128));
    out_ = register_module("out", std::make_shared<cf::LoraLinear>(128, 2));
    cf::Generator generator = cf::seeded(0);
    cf::initialise(*this, generator);
    cf::set_trainable(*this, true);
  }
  Tensor forward(const Tensor& x_t, const Tensor& t) {
    const Tensor h = at::silu(in_->forward(at::cat({x_t, t.unsqueeze(1)}, 1)));
    return out_->forward(at::silu(middle_->forward(h)));
  }
  std::vector<std::int64_t> sample_shape() const { return {2}; }

 private:
  std::shared_ptr<cf::LoraLinear> in_, middle_, out_;
};
TORCH_MODULE(Adaptable);

int main() {
  at::set_num_threads(1);  // what so small a network takes
  Adaptable model;
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 1000});
  //! [adapters]
  auto policy = cf::LoraPolicy(
      model, cf::LoraOptions{.rank = 8, .alpha = 16, .targets = {"in", "middle", "out"}});
  auto trainer = cf::Trainer(
      std::move(policy), cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}},
      cf::Nft{} + 0.01 * cf::VelocityKl{},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Learning{.gradient_steps = 2},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 3e-3})});
  //! [adapters]
  const double before = trainer.evaluate().reward;
  trainer.run(30);
  const double after = trainer.evaluate().reward;
  std::int64_t trained = 0;
  for (const Tensor& weight : trainer.policy().parameters()) trained += weight.numel();
  std::cout << "weights trained: " << trained << "; reward before: " << before
            << ", after: " << after << '\n';
  return after > before + 0.1 ? 0 : 1;
}
