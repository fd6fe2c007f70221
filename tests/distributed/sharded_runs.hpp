#pragma once

#include <contraflow/objective/distillation.hpp>
#include <contraflow/policy/sharded_policy.hpp>
#include <contraflow/policy/with_role.hpp>

#include "distributed/runs.hpp"

/// Runs by a policy that each rank has whole, and by one that is divided between the ranks.
namespace sharded_runs {

namespace cf = contraflow;
using cf::Tensor;
using distributed_runs::Result;

/// Makes the policy of each rank.
struct Whole {
  template <class M, class Comm>
  auto operator()(M model, const Comm&, const cf::SnapshotOptions& options = {}) const {
    return cf::SnapshotPolicy(std::move(model), options);
  }
};
struct Divided {
  template <class M, class Comm>
  auto operator()(M model, const Comm& ranks, const cf::SnapshotOptions& options = {}) const {
    return cf::ShardedPolicy(std::move(model), ranks, options);
  }
};

/// A model of few tensors: two that are trained, one that is frozen, and buffers, one of integers.
class FewImpl : public torch::nn::Cloneable<FewImpl> {
 public:
  FewImpl() { reset(); }
  void reset() override {
    weight_ = register_parameter("weight", at::eye(2) * 0.5);
    shift_ = register_parameter("shift", at::full({3}, 0.1));
    frozen_ = register_parameter("frozen", at::full({2}, 0.2), /*requires_grad=*/false);
    mean_ = register_buffer("mean", at::full({2}, 0.3));
    count_ = register_buffer("count", at::full({1}, 7, at::kLong));
  }
  Tensor forward(const Tensor& x_t, const Tensor& t) {
    return at::matmul(x_t - mean_, weight_) + shift_.slice(0, 0, 2) * t.unsqueeze(1) +
           frozen_ * shift_[2] * count_;
  }
  std::vector<std::int64_t> sample_shape() const { return {2}; }

 private:
  Tensor weight_, shift_, frozen_, mean_, count_;
};
TORCH_MODULE(Few);

/// Every tensor of a trainer and its optimiser, of all ranks.
template <class T>
std::map<std::string, Tensor> whole_state(T& trainer) {
  std::map<std::string, Tensor> all;
  if constexpr (requires { trainer.state_parts(); }) {
    std::vector<cf::StatePart> parts = trainer.state_parts();
    for (cf::StatePart part : trainer.optimizer_parts().parts) {
      part.name = "optimizer." + part.name;
      parts.push_back(part);
    }
    for (const cf::StatePart& part : parts) {
      all.emplace(part.name, cf::whole_of(trainer.communicator(), part).clone());
    }
  } else {
    for (const auto& [name, tensor] : trainer.state().tensors) {
      all.emplace(name, tensor.detach().clone());
    }
    for (const auto& [name, tensor] : trainer.optimizer_state().tensors) {
      all.emplace("optimizer." + name, tensor.clone());
    }
  }
  return all;
}

template <class T>
Result finished(T& trainer, std::int64_t epochs) {
  Result result;
  result.report = trainer.run(epochs);
  result.tensors = whole_state(trainer);
  return result;
}

/// All that a step can have: micro-batches, clipping, a changing rate, averages of their own
/// rhythm.
inline cf::Optimization optimization() {
  return {.optimizer = cf::adamw({.learning_rate = 1e-3}),
          .learning_rate_factor = cf::Ramp{.rate = 0.1, .max = 1},
          .max_gradient_norm = 0.05,
          .micro_batch = 3};
}
inline cf::SnapshotOptions follows() {
  return {.average_decay = cf::Constant{0.9}, .average_every = 3};
}
/// In float64.
inline auto wide_model() {
  cf::MlpVelocity network = small::model();
  network->to(at::kDouble);
  return cf::ModuleVelocity(network, [](auto& module, const Tensor& x_t, const Tensor& t) {
    return module->forward(x_t.to(at::kDouble), t.to(at::kDouble));
  });
}
/// Of which some samples give no finite gradient.
inline auto breaking_model() {
  return cf::ModuleVelocity(small::model(), [](auto& module, const Tensor& x, const Tensor& t) {
    Tensor v = module->forward(x, t);
    const bool breaks = v.requires_grad() && x.abs().max().template item<float>() > 2.6F;
    if (breaks) v.register_hook([](const Tensor& gradient) { return gradient / 0; });
    return v;
  });
}

template <class Make, class Comm, class M>
Result nft(const Make& make, const Comm& ranks, const M& model, std::int64_t epochs) {
  cf::Trainer trainer(make(model, ranks, follows()), cf::DpmSolver<2>{}, small::reward(),
                      cf::Nft{} + 0.1 * cf::VelocityKl{}, distributed_runs::collection(),
                      cf::Learning{.gradient_steps = 2, .inner_epochs = 2}, optimization(),
                      cf::EvaluationOptions{.every = 2, .samples = 7, .grid = cf::uniform_grid(4)},
                      cf::Seed{7}, ranks);
  return finished(trainer, epochs);
}
template <class Make, class Comm, class M>
Result grpo(const Make& make, const Comm& ranks, const M& model, std::int64_t epochs) {
  cf::Trainer trainer(make(model, ranks), cf::FlowSde{}, small::reward(),
                      cf::Grpo{.clip_range = 0.1} + 0.1 * cf::TransitionKl{},
                      distributed_runs::collection(), cf::Learning{.gradient_steps = 2},
                      optimization(), cf::Seed{7}, ranks);
  return finished(trainer, epochs);
}
/// Terms with batches of several kinds.
template <class Make, class Comm>
Result pairs(const Make& make, const Comm& ranks) {
  cf::Trainer trainer(make(small::model(), ranks), cf::Euler{}, distributed_runs::WithGaps{},
                      cf::Dpo{} + 0.1 * cf::BestOfGroup{} + 0.1 * cf::Nft{},
                      distributed_runs::collection(), optimization(), cf::Seed{7}, ranks);
  return finished(trainer, 4);
}
/// A role more, which every rank has whole.
template <class Make, class Comm>
Result offline(const Make& make, const Comm& ranks) {
  const Tensor x0 = laws::floats({13, 2});
  const cf::StoredSamples samples{x0, small::reward()(x0).to(at::kDouble),
                                  at::arange(13, at::kLong).remainder(3)};
  const auto policy =
      cf::with_role<cf::Role::teacher>(make(small::model(), ranks), small::model(/*seed=*/2));
  cf::OfflineTrainer trainer(
      policy, samples, cf::Nft{} + 0.1 * cf::VelocityKl{} + 0.1 * cf::VelocityDistillation<>{},
      optimization(), cf::Seed{7}, ranks);
  return finished(trainer, 4);
}

/// Every run, by name.
template <class Make, class Comm>
std::map<std::string, Result> all(const Make& make, const Comm& ranks) {
  return {{"NFT, float64", nft(make, ranks, wide_model(), 20)},
          {"NFT", nft(make, ranks, small::model(), 4)},
          {"GRPO, float64", grpo(make, ranks, wide_model(), 20)},
          {"GRPO", grpo(make, ranks, small::model(), 4)},
          {"few tensors", nft(make, ranks, Few(), 4)},
          {"skipped steps", nft(make, ranks, breaking_model(), 4)},
          {"pairs", pairs(make, ranks)},
          {"offline", offline(make, ranks)}};
}

}  // namespace sharded_runs
