#pragma once

#include <map>
#include <string>

#include <catch2/catch_test_macros.hpp>
#include <torch/optim/sgd.h>

#include <contraflow/model/mlp.hpp>
#include <contraflow/objective/grpo.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/policy/snapshot_policy.hpp>
#include <contraflow/reward/analytic.hpp>
#include <contraflow/solver/sde.hpp>
#include <contraflow/train/trainer.hpp>

#include "laws/compare.hpp"

/// Runs that take milliseconds: a small network, few samples, few steps.
namespace small {

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;

inline cf::MlpVelocity model(std::uint64_t seed = 1) {
  return cf::MlpVelocity({.width = 16, .depth = 2, .seed = seed});
}
inline auto policy() { return cf::SnapshotPolicy(model()); }

/// Points to the right: every sample has another score.
inline cf::LinearReward reward() { return {at::tensor({1.0F, 0.25F})}; }

/// The settings of a run, to be changed one by one.
struct Options {
  cf::Collection collection;
  cf::Learning learning;
  cf::Optimization optimization;
  cf::ForwardProcess forward;
  cf::RecordedTransitions transitions;
  cf::EvaluationOptions evaluation;
  cf::Seed seed;
};

/// 3 prompts of 4 samples, 5 steps.
inline Options options() {
  Options o;
  o.collection.prompts_per_epoch = 3;
  o.collection.group_size = 4;
  o.collection.grid = cf::uniform_grid(5);
  o.optimization.optimizer = cf::adamw({.learning_rate = 1e-2});
  o.evaluation.samples = 16;
  o.evaluation.grid = cf::uniform_grid(4);
  o.seed.value = 7;
  return o;
}

/// A Trainer with those of the settings that its objective can use.
template <class P, class S, class R, class O, class... More>
auto trainer(P policy, S solver, R reward, O objective, const Options& o, const More&... more) {
  using Sum = decltype(cf::as_sum(objective));
  constexpr bool forward = Sum::uses_forward || Sum::has_own_batches;
  const auto made = [&](const auto&... points) {
    return cf::Trainer(std::move(policy), std::move(solver), std::move(reward),
                       std::move(objective), o.collection, o.learning, o.optimization, o.evaluation,
                       o.seed, points..., more...);
  };
  if constexpr (forward && Sum::uses_transitions) {
    return made(o.forward, o.transitions);
  } else if constexpr (forward) {
    return made(o.forward);
  } else if constexpr (Sum::uses_transitions) {
    return made(o.transitions);
  } else {
    return made();
  }
}

/// Plain gradient descent: a small difference of gradients stays one of weights.
inline cf::OptimizerFactory descent(double rate) {
  return [rate](std::vector<Tensor> parameters) {
    return std::make_unique<torch::optim::SGD>(std::move(parameters), rate);
  };
}

using State = std::map<std::string, Tensor>;

template <class T>
State state_of(T& trainer) {
  State state;
  for (const auto& [name, tensor] : trainer.policy().state()) {
    state.emplace(name, tensor.detach().clone());
  }
  return state;
}

/// Largest relative distance of two states.
inline double distance(const State& a, const State& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (const auto& [name, tensor] : a) {
    worst = std::max(worst, laws::relative_distance(tensor, b.at(name)));
  }
  return worst;
}

inline bool same_bits(const State& a, const State& b) {
  REQUIRE(a.size() == b.size());
  for (const auto& [name, tensor] : a) {
    if (!laws::same_bits(tensor, b.at(name))) return false;
  }
  return true;
}

inline bool is_finite(const State& state) {
  for (const auto& [name, tensor] : state) {
    if (tensor.is_floating_point() && !tensor.isfinite().all().item<bool>()) return false;
  }
  return true;
}

}  // namespace small
