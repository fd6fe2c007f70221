// The law of the algebra: the gradient of `a + w b` is that of `a` plus w times that of `b`.

#include <array>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <contraflow/advantage/advantages.hpp>
#include <contraflow/model/module_velocity.hpp>
#include <contraflow/objective/dgpo.hpp>
#include <contraflow/objective/grpo.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/objective/regression.hpp>
#include <contraflow/policy/snapshot_policy.hpp>
#include <contraflow/solver/sde.hpp>
#include <contraflow/train/collector.hpp>
#include <contraflow/train/learner.hpp>

#include "laws/policy.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;

namespace {

// A network in float64, so that rounding leaves the law to be seen to nine digits.
auto model() {
  torch::nn::Sequential layers(torch::nn::Linear(3, 8), torch::nn::Tanh(), torch::nn::Linear(8, 2));
  layers->to(at::kDouble);
  std::uint64_t seed = 1;
  const at::NoGradGuard no_gradient;
  for (const Tensor& p : layers->parameters()) {
    Tensor(p).copy_(laws::doubles(p.sizes(), seed++) * 0.5);
  }
  return cf::ModuleVelocity(layers, [](auto& module, const Tensor& x, const Tensor& t) {
    return module->forward(at::cat({x, t.unsqueeze(1)}, 1).to(at::kDouble));
  });
}

using Policy = cf::SnapshotPolicy<decltype(model())>;
constexpr std::int64_t steps = 4, times = 2;

// A policy whose roles all differ.
Policy& policy() {
  static Policy shared = [] {
    Policy made(model());
    made.keep(cf::Roles<Role::old, Role::reference>{});
    laws::move_parameters(made, 0.05);
    made.after_epoch(0);
    laws::move_parameters(made, 0.05);
    return made;
  }();
  return shared;
}

// Three groups of four: in the first all are as good as each other, in the second one is as good
// as the mean.
cf::Scores scores() {
  cf::Scores s;
  s.reward = at::tensor({2., 2., 2., 2., 0., 1., 2., 1., 5., -1., 3., 4.}, at::kDouble);
  s.group = at::arange(12, at::kLong).div(4, "floor");
  s.advantage = cf::GroupAdvantage{}(s.reward, s.group);
  return s;
}

using AllRecorded = cf::RecordedSteps<true>;
const cf::TimeGrid& grid() {
  static const cf::TimeGrid even = cf::uniform_grid(steps);
  return even;
}

const cf::Rollout<AllRecorded>& rollout() {
  static const cf::Rollout<AllRecorded> collected = [] {
    cf::Collection options;
    options.prompts_per_epoch = 3;
    options.group_size = 4;
    options.grid = grid();
    options.sample_shape = {2};
    const cf::SolverCollector<cf::FlowSde, AllRecorded> collector(cf::FlowSde{}, options,
                                                                  {.fraction = 1});
    cf::EvaluationCount count;
    const cf::NoPrompts none;
    return collector.collect(
        cf::CollectorContext<Policy, cf::NoPrompts>{policy(), none, Role::old, 0, 3, count},
        cf::ProbeMade{});
  }();
  return collected;
}

// The same samples with no more than an objective records.
template <class Record>
cf::ScoredRollout<Record> samples() {
  const cf::Rollout<AllRecorded>& all = rollout();
  cf::ScoredRollout<Record> result{{all.x0, all.prompt, all.group, all.id, {}}, scores()};
  if constexpr (!std::is_same_v<Record, cf::NothingRecorded>) {
    const AllRecorded& r = all.record;
    result.rollout.record = {r.transitions, r.before, r.after, r.states,
                             r.log_prob,    Tensor(), r.sigma, r.dt};
    if (std::is_same_v<Record, AllRecorded>) result.rollout.record.mean = r.mean;
  }
  return result;
}

struct Learnt {
  Tensor gradient;
  std::int64_t backward;
};

// The gradient of an objective in one gradient step that leaves the weights as they are.
template <class O>
Learnt learnt(const O& objective, std::int64_t micro_batch = 0) {
  using Sum = decltype(cf::as_sum(objective));
  cf::Optimization still;
  still.optimizer = [](std::vector<Tensor> parameters) {
    return std::make_unique<torch::optim::SGD>(std::move(parameters), 0.0);
  };
  still.max_gradient_norm = 0;
  const cf::NoPrompts none;
  cf::Learner<Policy, Sum, cf::NoPrompts> learner(
      policy(), cf::as_sum(objective), none, cf::Learning{},
      cf::GradientStep(policy().parameters(), still, still.optimizer), micro_batch);
  learner.set(cf::ForwardProcess{.times = cf::UniformTimes{.per_sample = times}});
  learner.set(cf::RecordedTransitions{.fraction = 1});
  cf::LearnReport report;
  learner.learn(samples<cf::RecordOf<Sum>>(), grid(), cf::seeded(9), report);
  CHECK(report.gradient_steps == 1);
  std::vector<Tensor> flat;
  for (const Tensor& p : policy().parameters()) flat.push_back(p.grad().flatten().clone());
  return {at::cat(flat), learner.evaluations().backward};
}

// The samples that a term is to see, found without the algebra.
template <class T>
Tensor wanted(const T& term) {
  if constexpr (cf::HasKeep<T>) {
    const Tensor keep = term.keep(scores());
    if (keep.defined()) return keep;
  }
  return at::ones({12}, at::kBool);
}

// Evaluations that are differentiated: a sample is run once for all terms that look at it in the
// same places, and pairs are run for their own term.
template <class... Terms>
std::int64_t backward_of(const Terms&... terms) {
  Tensor noised = at::zeros({12}, at::kBool), recorded = noised;
  std::int64_t paired = 0;
  const auto add = [&](const auto& term) {
    using T = std::remove_cvref_t<decltype(term)>;
    if constexpr (cf::HasPairs<T>) {
      paired += 2 * term.pairs(scores()).size(0);
    } else if constexpr (cf::HasGroups<T>) {
      paired += term.groups(scores()).numel();
    } else if constexpr (std::is_same_v<typename T::Points, cf::ForwardProcess>) {
      noised = noised.logical_or(wanted(term));
    } else {
      recorded = recorded.logical_or(wanted(term));
    }
  };
  (add(terms), ...);
  return times * (paired + noised.sum().item<std::int64_t>()) +
         steps * recorded.sum().item<std::int64_t>();
}

// The gradient of a term by itself; terms of one type have one setting here.
template <class T>
const Tensor& alone(const T& term) {
  static const Tensor gradient = learnt(term).gradient;
  return gradient;
}

template <class... Terms, std::size_t... I>
void check(std::index_sequence<I...>, const std::array<double, sizeof...(Terms)>& weights,
           const Terms&... terms) {
  std::string names;
  ((names += std::string(Terms::name) + " "), ...);
  INFO(names);
  const Tensor expected = (... + (weights[I] * alone(terms)));
  const auto sum = (... + (weights[I] * terms));
  for (const std::int64_t micro_batch : {0, 5}) {
    INFO("micro-batches of " << micro_batch);
    const Learnt together = learnt(sum, micro_batch);
    CHECK(laws::relative_distance(together.gradient, expected) < 1e-9);
    CHECK(together.backward == backward_of(terms...));
  }
}
template <class... Terms>
void check(const std::array<double, sizeof...(Terms)>& weights, const Terms&... terms) {
  check(std::index_sequence_for<Terms...>{}, weights, terms...);
}

// NFT on informative groups, as a type of its own so that its gradient is kept by itself.
struct InformativeNft : cf::Nft {
  InformativeNft() { informative_only = true; }
};
struct InformativeKl : cf::VelocityKl {
  InformativeKl() { informative_only = true; }
};
// Clip ranges at which ratios are clipped and not clipped.
struct WideGrpo : cf::Grpo {
  WideGrpo() { clip_range = 0.02; }
};
struct WideGuard : cf::GrpoGuard {
  WideGuard() { clip_range = 0.02; }
};
struct PlainDpo : cf::Dpo {
  PlainDpo() { beta = 3; }
};
struct PlainDgpo : cf::Dgpo {
  PlainDgpo() { beta = 3; }
};
struct WideDppo : cf::FlowDppo {
  WideDppo() { threshold = 0.01; }
};

const std::tuple forward_terms{cf::Nft{},         InformativeNft{},   cf::PaperNft{},
                               cf::Awm{},         PlainDpo{},         cf::RewardWeighted{},
                               cf::BestOfGroup{}, cf::FlowMatching{}, cf::VelocityKl{},
                               InformativeKl{}};
const std::tuple transition_terms{WideGrpo{}, WideGuard{}, cf::TransitionKl{}};

template <class A, class... Bs>
void with_each(const A& a, const Bs&... bs) {
  (check({1, 0.3}, a, bs), ...);
}
// Every term with itself and all behind it.
template <class First, class... Rest>
void pairs_of(const First& first, const Rest&... rest) {
  with_each(first, first, rest...);
  if constexpr (sizeof...(Rest) > 0) pairs_of(rest...);
}

}  // namespace

TEST_CASE("each term teaches something, and no two of them the same") {
  std::vector<Tensor> gradients;
  const auto add = [&](const auto& term) {
    const Tensor gradient = learnt(term).gradient;
    CHECK(gradient.norm().template item<double>() > 1e-6);
    for (const Tensor& other : gradients) {
      CHECK(laws::relative_distance(gradient, other) > 1e-6);
    }
    gradients.push_back(gradient);
  };
  std::apply([&](const auto&... term) { (add(term), ...); }, forward_terms);
  std::apply([&](const auto&... term) { (add(term), ...); }, transition_terms);
}

TEST_CASE("two terms on the forward process add up") {
  std::apply([](const auto&... terms) { pairs_of(terms...); }, forward_terms);
}

TEST_CASE("two terms on transitions add up") {
  std::apply([](const auto&... terms) { pairs_of(terms...); }, transition_terms);
}

TEST_CASE("a term on the forward process and one on transitions add up") {
  const auto beside = [](const auto& a) {
    std::apply([&](const auto&... b) { with_each(a, b...); }, transition_terms);
  };
  std::apply([&](const auto&... a) { (beside(a), ...); }, forward_terms);
}

TEST_CASE("three terms add up") {
  check({1, 0.3, 2}, cf::Nft{}, cf::VelocityKl{}, cf::BestOfGroup{});
  check({2, 1, 0.3}, cf::BestOfGroup{}, InformativeNft{}, InformativeKl{});
  check({1, 0.3, 2}, cf::Nft{}, InformativeKl{}, cf::VelocityKl{});
  check({1, 2, 3}, PlainDpo{}, cf::FlowMatching{}, PlainDpo{});
  check({0.1, 1, 2}, cf::RewardWeighted{}, PlainDpo{}, WideGrpo{});
  check({1, 0.5, 0.25}, WideGrpo{}, cf::TransitionKl{}, cf::VelocityKl{});
  check({1, 0.5, 0.25}, cf::Awm{}, WideGuard{}, cf::BestOfGroup{});
  check({1, 2, 0.5}, PlainDgpo{}, PlainDpo{}, WideDppo{});
}

// What was reported: 12 evaluations instead of 96, and a term that counted 24 times less.
TEST_CASE("a term without wishes beside one with few sees every sample") {
  CHECK(learnt(cf::RewardWeighted{} + 0.1 * cf::BestOfGroup{}).backward == 12 * times);
  CHECK(learnt(cf::BestOfGroup{} + 0.1 * cf::FlowMatching{}).backward == 12 * times);
  CHECK(learnt(cf::BestOfGroup{}).backward == 2 * times);
}
