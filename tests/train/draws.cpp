// Random numbers of a run: a function of the seed, the epoch and the name of a sample.

#include <memory>
#include <string_view>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include "archetypes/models.hpp"
#include "laws/collector.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;

namespace {

// All that was drawn for a run, row by row in the order of training. Rewards are the samples'
// names: no two are alike.
struct Seen {
  std::vector<Tensor> prompt, x0, eps, t, reward;    // of noised samples
  std::vector<Tensor> state, next, recorded_reward;  // of transitions
};

struct SeeingTerm {
  using Velocities = cf::Roles<Role::current>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "seeing";
  std::shared_ptr<Seen> seen;

  Tensor signal(const cf::Scores& scores) const { return scores.reward; }
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& reward, cf::Statistics&) const {
    seen->prompt.push_back(batch.condition);
    seen->x0.push_back(batch.x0);
    seen->eps.push_back(batch.eps);
    seen->t.push_back(batch.t);
    seen->reward.push_back(reward);
    return 0 * cf::mean_per_sample(cf::velocity<Role::current>(batch));
  }
};

struct SeeingTransitions {
  using Velocities = cf::Roles<Role::current>;
  using Points = cf::RecordedTransitions;
  static constexpr std::string_view name = "seeing_transitions";
  std::shared_ptr<Seen> seen;

  Tensor signal(const cf::Scores& scores) const { return scores.reward; }
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& reward, cf::Statistics&) const {
    seen->state.push_back(batch.x);
    seen->next.push_back(batch.next);
    seen->recorded_reward.push_back(reward);
    return 0 * cf::mean_per_sample(cf::velocity<Role::current>(batch));
  }
};

// The sum of a sample's elements; none for some samples, counted from the first of an epoch.
struct Sums {
  std::vector<std::int64_t> missing = {};
  std::int64_t samples = 12;
  std::shared_ptr<std::int64_t> first = std::make_shared<std::int64_t>(0);
  Tensor operator()(const Tensor& x0) const {
    Tensor scores = x0.sum(1).to(at::kDouble);
    if (missing.empty()) return scores;
    for (const std::int64_t i : missing) {
      const std::int64_t here = i - *first % samples;
      if (here >= 0 && here < x0.size(0)) scores[here] = std::nan("");
    }
    *first += x0.size(0);
    return scores;
  }
};

constexpr std::int64_t times = 2, transitions = 3;

small::Options options() {
  small::Options o = small::options();
  o.forward.times = cf::UniformTimes{.per_sample = times};
  o.transitions.per_sample = transitions;
  return o;
}

// What two epochs draw. The model's rows have the same bits in any batch, and do not learn.
Seen drawn(const small::Options& o, const Sums& reward = {}) {
  const auto seen = std::make_shared<Seen>();
  auto trainer =
      small::trainer(cf::SnapshotPolicy(archetypes::ExactModel{}), cf::FlowSde{}, reward,
                     SeeingTerm{seen} + 1.0 * SeeingTransitions{seen}, o, cf::class_prompts(5));
  trainer.run(2);
  return *seen;
}

std::vector<Tensor> tensors(const Seen& seen) {
  return {
      at::cat(seen.prompt), at::cat(seen.x0),    at::cat(seen.eps),  at::cat(seen.t),
      at::cat(seen.reward), at::cat(seen.state), at::cat(seen.next), at::cat(seen.recorded_reward)};
}

void same(const Seen& a, const Seen& b) {
  const auto left = tensors(a), right = tensors(b);
  for (std::size_t i = 0; i < left.size(); ++i) {
    INFO("tensor " << i);
    CHECK(laws::same_bits(left[i], right[i]));
  }
}

// The rows of samples whose rewards are among others.
Tensor rows_of(const Tensor& reward, const Tensor& among) {
  return (reward.unsqueeze(1) == among.unsqueeze(0)).any(1).nonzero().flatten();
}

}  // namespace

TEST_CASE("a seed gives the bits of everything that is drawn, another seed others") {
  const Seen one = drawn(options());
  same(drawn(options()), one);
  small::Options other = options();
  other.seed.value = 8;
  const auto a = tensors(one), b = tensors(drawn(other));
  for (std::size_t i = 1; i < a.size(); ++i) CHECK_FALSE(at::equal(a[i], b[i]));
}

TEST_CASE("what is drawn does not depend on the batches in which samples are made or trained") {
  const Seen whole = drawn(options());
  for (const std::int64_t size : {1, 5, 7, 12}) {
    INFO("batches of " << size);
    small::Options o = options();
    o.collection.rollout_batch = size;
    same(drawn(o), whole);
    o.collection.asynchronous_scoring = true;
    same(drawn(o), whole);
    o.optimization.micro_batch = size;
    same(drawn(o), whole);
  }
}

TEST_CASE("what is drawn for a sample does not depend on which others are left beside it") {
  // The first group, and one sample of the last.
  const std::vector<std::int64_t> missing{0, 1, 2, 3, 9};
  for (const std::int64_t steps : {1, 3}) {
    INFO("gradient steps: " << steps);
    small::Options o = options();
    o.learning.gradient_steps = steps;
    // One point a sample, so that all steps together are in the order of the samples.
    o.forward.times = cf::UniformTimes{};
    o.transitions.per_sample = 1;
    const auto all = tensors(drawn(o)), some = tensors(drawn(o, Sums{missing}));
    REQUIRE(some[4].size(0) == 2 * 7);
    const Tensor rows = rows_of(all[4], some[4]), recorded = rows_of(all[7], some[7]);
    REQUIRE(rows.numel() == 2 * 7);
    for (std::size_t i = 0; i < all.size(); ++i) {
      INFO("tensor " << i);
      CHECK(laws::same_bits(all[i].index_select(0, i < 5 ? rows : recorded), some[i]));
    }
  }
}

TEST_CASE("a group's samples do not depend on how many groups follow") {
  small::Options few = options(), many = options();
  many.collection.prompts_per_epoch = 4;
  const auto collected = [](const small::Options& o) {
    cf::Collection collection = o.collection;
    collection.sample_shape = {2};
    const cf::SolverCollector<cf::FlowSde> collector(cf::FlowSde{}, collection);
    cf::SnapshotPolicy policy(archetypes::ExactModel{});
    cf::EvaluationCount count;
    const cf::NoPrompts none;
    return collector
        .collect(cf::CollectorContext<decltype(policy), cf::NoPrompts>{policy, none, Role::current,
                                                                       2, 7, count},
                 cf::ProbeMade{})
        .x0;
  };
  CHECK(laws::same_bits(collected(many).narrow(0, 0, 12), collected(few)));
}

TEST_CASE("purposes and groups draw apart") {
  small::Options o = options();
  o.collection.prompts_per_epoch = 500;
  o.collection.group_size = 2;
  const auto all = tensors(drawn(o));
  const auto correlation = [](const Tensor& a, const Tensor& b) {
    const Tensor x = a.to(at::kDouble).flatten(), y = b.to(at::kDouble).flatten();
    return std::abs(
        (((x - x.mean()) * (y - y.mean())).mean() / (x.std() * y.std())).item<double>());
  };
  // 1000 samples and two times: eps of a time beside that of the other, beside x0, beside the next
  // epoch's. 2000 numbers: a correlation of 0.1 is four standard deviations.
  const Tensor eps = all[2].view({2, times, 1000, 2}), x0 = all[1].view({2, times, 1000, 2});
  CHECK(correlation(eps[0][0], eps[0][1]) < 0.1);
  CHECK(correlation(eps[0][0], eps[1][0]) < 0.1);
  CHECK(correlation(eps[0][0], x0[0][0]) < 0.1);
  CHECK(correlation(eps[0][0].slice(0, 0, 999), eps[0][0].slice(0, 1, 1000)) < 0.1);
  CHECK(correlation(eps[0][0].select(1, 0), eps[0][0].select(1, 1)) < 0.13);
  CHECK(std::abs(eps.std().item<double>() - 1) < 0.03);
}

TEST_CASE("the collector that follows a solver keeps the laws of collectors") {
  cf::Collection options = small::options().collection;
  options.sample_shape = {2};
  options.rollout_batch = 5;
  cf::SnapshotPolicy policy(archetypes::ExactModel{});
  using Recorded = cf::RecordedSteps<false>;
  laws::collector<cf::NothingRecorded>(cf::SolverCollector<cf::Euler>(cf::Euler{}, options), policy,
                                       cf::class_prompts(5));
  laws::collector<Recorded>(cf::SolverCollector<cf::FlowSde, Recorded>(cf::FlowSde{}, options),
                            policy, cf::NoPrompts{});
}
