// A stochastic solver of your own is its transition; objectives on transitions train with it.
#include <cmath>
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using cf::Tensor;

//! [stochastic solver]
/// An SDE whose noise fades towards the data, `s = noise_level sigma`; otherwise that of FlowSde.
struct FadingSde {
  double noise_level = 1;  ///< above 0

  using State = cf::TransitionState;
  State init(const Tensor&) const {
    cf::expects(noise_level > 0, "noise_level", "above 0", noise_level);
    return {};
  }
  cf::Transition transition(const cf::Step& step) const {
    const double dt = step.to - step.from;
    const double s = noise_level * step.from;
    const double drift = s * s * dt / (2 * step.from);
    return cf::Transition::gaussian(1 + drift, dt + drift * (1 - step.from), s * std::sqrt(-dt));
  }
  template <class V>
  Tensor step(V& velocity, const Tensor& x, const cf::Step& step, State& state,
              cf::Generator& generator) const {
    return cf::step_by_transition(*this, velocity, x, step, state, generator);
  }
};
static_assert(cf::StochasticSolver<FadingSde>);
//! [stochastic solver]

int main() {
  at::set_num_threads(1);  // what so small a network takes
  auto model = cf::MlpVelocity({.dimension = 2, .width = 64, .depth = 2});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 500});
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(model), FadingSde{}, cf::toy::InModes{{1, 4}}, cf::Grpo{.clip_range = 0.2},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  const double before = trainer.evaluate().reward;
  trainer.run(30);
  const double after = trainer.evaluate().reward;
  std::cout << "reward before: " << before << ", after: " << after << '\n';
  return after > before + 0.1 ? 0 : 1;
}
