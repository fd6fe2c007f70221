// A policy of your own: one network and no copy of it, for objectives that need no other role.
#include <iostream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/contraflow.hpp>
#include <contraflow/network/weights.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using cf::Tensor;

//! [policy]
/// Trains a model without any copy of it: `average` is the model itself, `old` there is none.
template <class M>
class InPlacePolicy {
 public:
  using Available = cf::Roles<cf::Role::current, cf::Role::average>;

  explicit InPlacePolicy(M model) : model_(std::move(model)) {}

  template <class C>
  Tensor velocity(cf::Role role, const Tensor& x_t, const Tensor& t, const C& condition) {
    const at::AutoGradMode gradient(role == cf::Role::current && at::GradMode::is_enabled());
    return cf::velocity_of(model_, x_t, t, condition);
  }
  std::vector<Tensor> parameters() { return cf::module_of(model_)->parameters(); }
  std::vector<std::int64_t> sample_shape() { return cf::sample_shape_of(model_); }
  void after_gradient_step(std::int64_t) {}
  void after_epoch(std::int64_t) {}
  template <cf::Role... R>
  void keep(cf::Roles<R...>) {}

  std::map<std::string, Tensor> state() { return cf::named_weights(*cf::module_of(model_)); }
  void load(const std::map<std::string, Tensor>& tensors) {
    const at::NoGradGuard no_gradient;
    for (auto& [name, own] : state()) own.copy_(tensors.at(name));
  }

 private:
  M model_;
};
static_assert(cf::Policy<InPlacePolicy<cf::MlpVelocity>>);
//! [policy]

int main() {
  at::set_num_threads(1);  // what so small a network takes
  auto model = cf::MlpVelocity({.dimension = 2, .width = 64, .depth = 2});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 500});
  auto trainer = cf::Trainer(
      InPlacePolicy(model), cf::FlowSde{}, cf::toy::InModes{{1, 4}}, cf::Grpo{.clip_range = 0.2},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  trainer.run(30);
  const double after = trainer.evaluate().reward;
  std::cout << "share on two modes of the ring, 0.1 at the start: " << after << '\n';
  return after > 0.2 ? 0 : 1;
}
