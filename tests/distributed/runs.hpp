#pragma once

#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <contraflow/model/module_velocity.hpp>
#include <contraflow/objective/regression.hpp>
#include <contraflow/objective/velocity_kl.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/train/offline.hpp>
#include <contraflow/train/pretrain.hpp>

#include "archetypes/communicators.hpp"
#include "network/tiny_mmdit.hpp"
#include "train/small_runs.hpp"

/// Runs that several ranks make together, to be compared with those of one.
namespace distributed_runs {

namespace cf = contraflow;
using cf::Tensor;

/// What a run came to.
struct Result {
  std::map<std::string, Tensor> tensors;  ///< of the trainer's state
  cf::RunReport report;                   ///< of the run
};

/// The reward of small::reward(), of which every seventh sample has none.
struct WithGaps {
  Tensor operator()(const Tensor& x0) const {
    Tensor scores = small::reward()(x0).to(at::kDouble);
    // By the sample alone: the same ones for any number of ranks.
    const Tensor bits = (x0.select(1, 0) * 1e4).to(at::kLong).remainder(7);
    return scores.masked_fill(bits.eq(0), std::numeric_limits<double>::quiet_NaN());
  }
};

/// The second coordinate, with abstentions and failures by the sample alone.
struct WithOpinions {
  cf::PartialScores operator()(const Tensor& x0) const {
    const Tensor bits = (x0.select(1, 0) * 1e4).to(at::kLong).remainder(5);
    const Tensor scores = x0.select(1, 1).to(at::kDouble);
    return {scores.masked_fill(bits.eq(0), std::numeric_limits<double>::quiet_NaN()), bits.eq(1)};
  }
};

template <class T>
Result run(T& trainer, std::int64_t epochs) {
  Result result;
  result.report = trainer.run(epochs);
  for (const auto& [name, tensor] : trainer.state().tensors) {
    result.tensors.emplace(name, tensor.detach().clone());
  }
  return result;
}

/// The settings of all: 5 groups of 4, which few numbers of ranks divide.
inline cf::Collection collection(std::int64_t groups = 5) {
  return {.prompts_per_epoch = groups,
          .group_size = 4,
          .grid = cf::uniform_grid(5),
          .sample_shape = {2}};
}
inline cf::Optimization descent() { return {.optimizer = small::descent(1e-2), .micro_batch = 3}; }

template <class Comm>
Result nft(const Comm& ranks, std::int64_t epochs = 4, std::int64_t groups = 5) {
  cf::Trainer trainer(small::policy(), cf::Euler{}, WithGaps{}, cf::Nft{} + 0.1 * cf::VelocityKl{},
                      collection(groups), cf::Learning{.gradient_steps = 2, .inner_epochs = 2},
                      descent(),
                      cf::EvaluationOptions{.every = 2, .samples = 7, .grid = cf::uniform_grid(4)},
                      cf::Seed{7}, ranks);
  return run(trainer, epochs);
}
/// Rewards of which one abstains and fails, in fewer groups than there may be ranks.
template <class Comm>
Result opinions(const Comm& ranks) {
  using namespace cf::literals;
  cf::Trainer trainer(small::policy(), cf::Euler{},
                      cf::rewards("a"_r = WithGaps{}, "b"_r = cf::weighted(WithOpinions{}, -2)),
                      cf::Nft{}, collection(3),
                      cf::Scoring{.failed = cf::FailedScore::worst_of_group}, descent(),
                      cf::EvaluationOptions{.every = 1, .samples = 4, .grid = cf::uniform_grid(4)},
                      cf::Seed{7}, ranks);
  return run(trainer, 3);
}
template <class Comm>
Result grpo(const Comm& ranks) {
  cf::Trainer trainer(small::policy(), cf::FlowSde{}, WithGaps{},
                      cf::Grpo{.clip_range = 0.1} + 0.1 * cf::TransitionKl{}, collection(),
                      cf::Learning{.gradient_steps = 2}, descent(), cf::Seed{7}, ranks);
  return run(trainer, 4);
}
template <class Comm>
Result dpo(const Comm& ranks) {
  cf::Trainer trainer(small::policy(), cf::Euler{}, WithGaps{}, cf::Dpo{} + 0.1 * cf::BestOfGroup{},
                      collection(), cf::Learning{.gradient_steps = 2}, descent(), cf::Seed{7},
                      ranks);
  return run(trainer, 4);
}
template <class Comm>
Result offline(const Comm& ranks) {
  const Tensor x0 = laws::floats({13, 2});
  const cf::StoredSamples samples{x0, small::reward()(x0).to(at::kDouble),
                                  at::arange(13, at::kLong).remainder(3)};
  cf::OfflineTrainer trainer(small::policy(), samples, cf::Nft{} + 0.1 * cf::VelocityKl{},
                             cf::Learning{.gradient_steps = 2}, descent(), cf::Seed{7}, ranks);
  return run(trainer, 4);
}
template <class Comm>
Result pretrained(const Comm& ranks) {
  const auto data = [](std::int64_t count, cf::Generator& generator) {
    return cf::normal({count, 2}, generator);
  };
  cf::Pretrainer trainer(small::model(), data,
                         cf::Pretraining{.steps = 8, .batch = 7, .report_every = 4}, descent(),
                         cf::Seed{7}, ranks);
  return run(trainer, 2);
}

/// Times that depend on all samples of a step, alike within a group.
template <class Comm>
Result strata(const Comm& ranks) {
  cf::Trainer trainer(small::policy(), cf::Euler{}, WithGaps{}, cf::Nft{}, collection(),
                      cf::ForwardProcess{.times = cf::StratifiedTimes{.per_sample = 2}},
                      cf::Learning{.gradient_steps = 2}, descent(), cf::Seed{7}, ranks);
  Result result = run(trainer, 3);
  cf::Trainer shared(
      small::policy(), cf::Euler{}, WithGaps{}, cf::Nft{}, collection(),
      cf::ForwardProcess{.times = cf::StratifiedTimes{.per_sample = 2}, .shared_noise = true},
      descent(), cf::Seed{7}, ranks);
  for (auto& [name, tensor] : run(shared, 2).tensors) {
    result.tensors.emplace("shared." + name, tensor);
  }
  return result;
}

/// In float64, with the published optimiser: 20 epochs in which rounding does not grow to 1e-5.
template <class Comm>
Result wide(const Comm& ranks) {
  cf::MlpVelocity network = small::model();
  network->to(at::kDouble);
  const cf::ModuleVelocity model(network, [](auto& module, const Tensor& x_t, const Tensor& t) {
    return module->forward(x_t.to(at::kDouble), t.to(at::kDouble));
  });
  const auto policy = cf::SnapshotPolicy(model);
  cf::Trainer trainer(policy, cf::DpmSolver<2>{}, small::reward(), cf::Nft{}, collection(7),
                      cf::Learning{.gradient_steps = 3},
                      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})},
                      cf::Seed{7}, ranks);
  return run(trainer, 20);
}

/// Adapters on one base.
template <class Comm>
Result adapters(const Comm& ranks) {
  cf::LoraPolicy policy(tiny::mmdit(), {.rank = 2, .alpha = 6}, {.seed = 3});
  const auto brightness = [](const Tensor& x0) { return x0.flatten(1).mean(1); };
  cf::Trainer trainer(std::move(policy), cf::Euler{}, brightness, cf::Nft{},
                      cf::PromptRows(tiny::condition(3)),
                      cf::Collection{.prompts_per_epoch = 3,
                                     .group_size = 2,
                                     .grid = cf::uniform_grid(2),
                                     .sample_shape = {4, 4, 4}},
                      descent(), cf::Seed{7}, ranks);
  return run(trainer, 2);
}

/// The samples of the next epoch made before an epoch is learnt.
template <class Comm>
Result ahead(const Comm& ranks) {
  cf::Trainer trainer(small::policy(), cf::Euler{}, WithGaps{}, cf::Nft{}, collection(),
                      cf::Learning{.gradient_steps = 2}, descent(), cf::Seed{7}, cf::Ahead{1},
                      ranks);
  return run(trainer, 4);
}

/// Every run, by name.
template <class Comm>
std::map<std::string, Result> all(const Comm& ranks) {
  return {{"NFT", nft(ranks)},           {"fewer groups than ranks", nft(ranks, 2, 1)},
          {"GRPO", grpo(ranks)},         {"DPO", dpo(ranks)},
          {"offline", offline(ranks)},   {"pre-training", pretrained(ranks)},
          {"float64", wide(ranks)},      {"strata", strata(ranks)},
          {"adapters", adapters(ranks)}, {"opinions", opinions(ranks)},
          {"ahead", ahead(ranks)}};
}

/// Where two results differ by more than rounding; "" where they do not.
inline std::string difference(const Result& a, const Result& b) {
  for (const auto& [name, tensor] : a.tensors) {
    const Tensor& other = b.tensors.at(name);
    const double size = tensor.to(at::kDouble).norm().item<double>();
    const double distance = (tensor.to(at::kDouble) - other.to(at::kDouble)).norm().item<double>();
    if (!(distance <= 1e-5 * size)) return name + " by " + std::to_string(distance / size);
  }
  const cf::EpochReport &one = a.report.last, &two = b.report.last;
  if (one.forward_evaluations != two.forward_evaluations) return "forward evaluations";
  if (one.backward_evaluations != two.backward_evaluations) return "backward evaluations";
  if (one.gradient_steps != two.gradient_steps) return "gradient steps";
  for (const cf::Metric& metric : one.metrics) {
    const bool is_of_the_machine =
        metric.name.starts_with("seconds/") || metric.name.starts_with("ranks/");
    if (is_of_the_machine || metric.name == "velocity_norm") continue;
    const auto other = two.find(metric.name);
    if (!other) return metric.name + " is missing";
    const bool is_close = std::abs(metric.value - *other) <= 1e-4 * std::abs(metric.value) + 1e-6;
    if (!is_close)
      return metric.name + ": " + std::to_string(metric.value) + ", " + std::to_string(*other);
  }
  return "";
}

/// Whether two results have the same bits.
inline bool same_bits(const Result& a, const Result& b) {
  for (const auto& [name, tensor] : a.tensors) {
    if (!at::equal(tensor, b.tensors.at(name))) return false;
  }
  return a.tensors.size() == b.tensors.size();
}

}  // namespace distributed_runs
