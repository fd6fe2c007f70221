// One model of each concept, written outside of the library: what a first commit looks like.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using cf::Tensor;

//! [solver]
/// Adams and Bashforth's method of order 2: one velocity a step, the one before remembered.
struct AdamsBashforth2 {
  static constexpr int order = 2;
  struct State {
    Tensor slope;       ///< of the step before; undefined at the first
    double length = 0;  ///< of the step before
  };
  State init(const Tensor&) const { return {}; }

  template <class V>
  Tensor step(V& velocity, const Tensor& x, const cf::Step& step, State& state,
              cf::Generator&) const {
    const double h = step.to - step.from;
    const State before = std::exchange(state, {cf::wide(velocity(x, step.from)), h});
    if (!before.slope.defined()) return x + h * state.slope;
    const double ratio = h / (2 * before.length);
    return x + h * ((1 + ratio) * state.slope - ratio * before.slope);
  }
};
static_assert(cf::Solver<AdamsBashforth2>);
//! [solver]

//! [solver test]
/// Error at sigma 0 of dx/dsigma = x from sigma 1, whose solution is exp(sigma - 1).
template <class S>
double error_after(const S& solver, int steps) {
  cf::Generator generator = cf::seeded(0);
  const auto velocity = [](const Tensor& x, double) { return x; };
  const Tensor start = at::ones({1, 1}, at::kDouble);
  const Tensor end = cf::integrate(solver, velocity, start, cf::uniform_grid(steps), generator);
  return std::abs(end.item<double>() - std::exp(-1.0));
}

/// Halving the step divides the error by 2^order.
bool has_declared_order() {
  const double gain = error_after(AdamsBashforth2{}, 64) / error_after(AdamsBashforth2{}, 128);
  return std::log2(gain) > AdamsBashforth2::order - 0.1;
}
//! [solver test]

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

//! [reward]
/// How far a sample lies in the direction of its class.
struct TowardsClass {
  Tensor directions;  ///< [classes, D]

  /// @par Shape
  /// @p x0 [B, D], @p labels int64 [B]; result [B]
  Tensor operator()(const Tensor& x0, const Tensor& labels) const {
    return (cf::wide(x0) * directions.index_select(0, labels)).sum(1);
  }
};
static_assert(cf::Reward<TowardsClass, Tensor>);
//! [reward]

//! [objective]
/// Flow matching to the samples that beat their group, each weighted by its advantage.
struct BetterThanMean {
  using Velocities = cf::Roles<cf::Role::current>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "better_than_mean";

  double most = 5;  ///< largest weight, above 0

  Tensor signal(const cf::Scores& scores) const { return scores.advantage.clamp(0, most); }
  Tensor keep(const cf::Scores& scores) const { return scores.advantage > 0; }

  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& weight, cf::Statistics&) const {
    const Tensor error = cf::matching_error(batch, cf::velocity<cf::Role::current>(batch));
    return weight.to(error.scalar_type()) * error;
  }
};
static_assert(cf::Term<BetterThanMean>);
//! [objective]

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

//! [advantage]
/// `(reward - mean of the group) / (greatest - least of the group)`.
struct RangeAdvantage {
  Tensor operator()(const Tensor& reward, const Tensor& group) const {
    return cf::map_groups(reward, group, [](std::span<const double> r, std::span<double> a) {
      const auto [least, greatest] = std::minmax_element(r.begin(), r.end());
      const double mean = cf::mean_of(r);
      for (std::size_t i = 0; i < r.size(); ++i) a[i] = (r[i] - mean) / (*greatest - *least);
    });
  }
};
static_assert(cf::Advantage<RangeAdvantage>);
//! [advantage]

//! [training times]
/// `1 - u^2` with u uniform: more times near the noise.
struct NoisyTimes {
  Tensor operator()(std::int64_t units, const cf::TimeGrid&, cf::Generator& generator) const {
    return 1 - cf::uniform({units, 1}, generator).square();
  }
};
static_assert(cf::TrainingTimes<NoisyTimes>);
//! [training times]

//! [prompt source]
/// Two classes, the second asked for twice as often.
struct UnevenClasses {
  std::int64_t size() const { return 3; }
  Tensor condition(const Tensor& ids) const { return ids.clamp_max(1); }
};
static_assert(cf::PromptSource<UnevenClasses>);
//! [prompt source]

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

  template <cf::Role... R>
  void keep(cf::Roles<R...>) {}
  void after_gradient_step(std::int64_t) {}
  void after_epoch(std::int64_t) {}

  std::map<std::string, Tensor> state() {
    std::map<std::string, Tensor> tensors;
    for (const auto& item : cf::module_of(model_)->named_parameters()) {
      tensors.emplace(item.key(), item.value());
    }
    return tensors;
  }
  void load(const std::map<std::string, Tensor>& tensors) {
    const at::NoGradGuard no_gradient;
    for (auto& [name, own] : state()) own.copy_(tensors.at(name));
  }

 private:
  M model_;
};
static_assert(cf::Policy<InPlacePolicy<TinyFlow>, Tensor>);
//! [policy]

//! [observer]
/// Remembers the best epoch.
struct BestEpoch {
  std::int64_t epoch = 0;
  double reward = -1e300;

  void operator()(const cf::EpochReport& report) {
    const auto value = report.find("reward/mean");
    if (!value || *value <= reward) return;
    epoch = report.epoch;
    reward = *value;
  }
};
static_assert(cf::Observer<BestEpoch>);
//! [observer]

/// All of them in one run: samples of two classes are drawn to the left and to the right.
bool learns() {
  at::manual_seed(0);
  auto model = TinyFlow(2);
  const TowardsClass reward{at::tensor({-1.0F, 0.0F, 1.0F, 0.0F}).view({2, 2})};
  //! [together]
  auto trainer = cf::Trainer(InPlacePolicy(model), AdamsBashforth2{}, reward,
                             BetterThanMean{} + 0.1 * cf::FlowMatching{},
                             {.prompts_per_epoch = 6,
                              .group_size = 16,
                              .grid = cf::uniform_grid(8),
                              .update = {.optimizer = cf::adamw({.learning_rate = 5e-3})}},
                             UnevenClasses{}, RangeAdvantage{}, NoisyTimes{});
  BestEpoch best;
  trainer.run(40, best);
  //! [together]
  std::cout << "best epoch " << best.epoch << " with a reward of " << best.reward << '\n';
  return best.epoch > 10 && best.reward > 0.5;
}

/// The same policy on transitions, with the solver that makes them.
bool trains_on_transitions() {
  auto model = cf::MlpVelocity({.dimension = 2, .width = 32, .depth = 2});
  auto trainer =
      cf::Trainer(InPlacePolicy(model), FadingSde{}, cf::toy::InModes{{1, 4}},
                  cf::Grpo{.clip_range = 0.2}, {.prompts_per_epoch = 2, .group_size = 8});
  const cf::RunReport report = trainer.run(2);
  return report.epochs == 2 && report.last.find("skipped_steps") == 0.0;
}

int main() { return has_declared_order() && learns() && trains_on_transitions() ? 0 : 1; }
