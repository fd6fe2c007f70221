// Samples of one group that are noised alike, seen by a term that stores its batches.

#include <memory>
#include <string_view>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/objective/regression.hpp>
#include <contraflow/train/offline.hpp>

#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;

namespace {

// What a term was given, batch after batch.
struct Noise {
  Tensor group, eps, t;
};

// Its signal is the number of the group, so that batches know where their samples are from.
struct StoringTerm {
  using Velocities = cf::Roles<Role::current>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "storing";

  std::shared_ptr<std::vector<Noise>> batches = std::make_shared<std::vector<Noise>>();

  Tensor signal(const cf::Scores& scores) const { return scores.group.to(at::kDouble); }

  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& group, cf::Statistics&) const {
    CHECK(laws::same_bits(batch.x_t, cf::interpolate(batch.x0, batch.eps, batch.t)));
    batches->push_back({group.to(at::kLong), batch.eps, batch.t});
    return cf::matching_error(batch, cf::velocity<Role::current>(batch));
  }
};

// The same of pairs.
struct StoringPairs : StoringTerm {
  Tensor pairs(const cf::Scores& scores) const { return cf::Dpo{}.pairs(scores); }
};

small::Options options(bool shared_noise) {
  small::Options o = small::options();
  o.forward.times = cf::UniformTimes{.per_sample = 2};
  o.forward.shared_noise = shared_noise;
  return o;
}

// The batches of one epoch: 3 groups of 4 samples at 2 times each, unless told otherwise.
std::vector<Noise> batches_of(const small::Options& o) {
  const StoringTerm term;
  auto trainer = small::trainer(small::policy(), cf::Euler{}, small::reward(), term, o);
  trainer.run_epoch();
  return *term.batches;
}

Noise joined(const std::vector<Noise>& batches) {
  std::vector<Tensor> group, eps, t;
  for (const Noise& batch : batches) {
    group.push_back(batch.group);
    eps.push_back(batch.eps);
    t.push_back(batch.t);
  }
  return {at::cat(group), at::cat(eps), at::cat(t)};
}

std::int64_t distinct(const Tensor& rows) { return std::get<0>(at::unique_dim(rows, 0)).size(0); }

// Rows of noise and time together.
Tensor points(const Noise& noise) { return at::cat({noise.eps, noise.t.unsqueeze(1)}, 1); }

Tensor points_of_group(const Noise& noise, std::int64_t group) {
  return points(noise).index_select(0, (noise.group == group).nonzero().flatten());
}

// Within a gradient step groups have @p per_group points each, shared with no other group.
void check_points(const Noise& step, std::int64_t groups, std::int64_t per_group) {
  std::int64_t sum = 0;
  for (const Tensor& group : std::get<0>(at::_unique(step.group)).unbind()) {
    CHECK(distinct(points_of_group(step, group.item<std::int64_t>())) == per_group);
    sum += per_group;
  }
  CHECK(sum == groups * per_group);
  CHECK(distinct(step.eps) == sum);
  CHECK(distinct(step.t.unsqueeze(1)) == sum);
}

std::vector<Tensor> tensors(const std::vector<Noise>& batches) {
  const Noise all = joined(batches);
  return {all.group, all.eps, all.t};
}

}  // namespace

TEST_CASE("every sample has noise and times of its own") {
  const auto batches = batches_of(options(false));
  REQUIRE(batches.size() == 1);
  CHECK(batches[0].eps.sizes() == at::IntArrayRef({24, 2}));
  check_points(batches[0], 3, 8);
}

TEST_CASE("with shared noise a group has one noise and one time where its samples had their own") {
  const auto batches = batches_of(options(true));
  REQUIRE(batches.size() == 1);
  // As many points as before, at two for a group instead of eight.
  CHECK(batches[0].eps.sizes() == at::IntArrayRef({24, 2}));
  check_points(batches[0], 3, 2);
  // Each of the two is seen by all four samples.
  for (const std::int64_t group : {0, 1, 2}) {
    const Tensor times = std::get<2>(at::unique_dim(points_of_group(batches[0], group), 0, true,
                                                    /*return_inverse=*/false,
                                                    /*return_counts=*/true));
    CHECK(at::equal(times, at::full({2}, 4, at::kLong)));
  }
}

TEST_CASE("shared noise is as normal as any") {
  small::Options o = options(true);
  o.collection.prompts_per_epoch = 1000;
  o.collection.group_size = 2;
  const Noise all = joined(batches_of(o));
  CHECK(distinct(points(all)) == 2000);
  CHECK(std::abs(all.eps.mean().item<double>()) < 0.05);
  CHECK(std::abs(all.eps.std().item<double>() - 1) < 0.05);
  CHECK(std::abs(all.t.mean().item<double>() - 0.5) < 0.03);
}

TEST_CASE("micro-batches see the noise of their gradient step") {
  small::Options o = options(true);
  o.optimization.micro_batch = 5;
  const auto parts = batches_of(o), whole = batches_of(options(true));
  CHECK(parts.size() == 5);
  const auto a = tensors(parts), b = tensors(whole);
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(laws::same_bits(a[i], b[i]));
}

TEST_CASE("a pass over the samples has noise of its own, the same in all gradient steps") {
  small::Options o = options(true);
  o.learning.gradient_steps = 3;
  o.learning.inner_epochs = 2;
  const auto steps = batches_of(o);
  REQUIRE(steps.size() == 6);
  for (const Noise& step : steps) {
    check_points(step, std::get<0>(at::_unique(step.group)).numel(), 2);
  }
  const auto of_pass = [&](std::size_t first) {
    return joined(
        {steps.begin() + std::ptrdiff_t(first), steps.begin() + std::ptrdiff_t(first) + 3});
  };
  // The rest of a group in another step is noised as the group is: its points belong to its name.
  check_points(of_pass(0), 3, 2);
  check_points(of_pass(3), 3, 2);
  CHECK(distinct(points(joined(steps))) == 2 * 3 * 2);
}

TEST_CASE("the two samples of a pair are noised alike with shared noise or without") {
  // Each group's best and worst: one noise a group either way.
  for (const bool shared : {false, true}) {
    const StoringPairs term;
    auto trainer =
        small::trainer(small::policy(), cf::Euler{}, small::reward(), term, options(shared));
    trainer.run_epoch();
    REQUIRE(term.batches->size() == 1);
    CHECK(term.batches->front().eps.size(0) == 12);
    check_points(term.batches->front(), 3, 2);
  }
}

TEST_CASE("a seed gives the bits of noise and weights, shared or not") {
  for (const bool shared : {false, true}) {
    const auto one = tensors(batches_of(options(shared)));
    const auto same_seed = tensors(batches_of(options(shared)));
    small::Options changed = options(shared);
    changed.seed.value = 8;
    const auto other = tensors(batches_of(changed));
    for (std::size_t i = 0; i < one.size(); ++i) CHECK(laws::same_bits(one[i], same_seed[i]));
    CHECK_FALSE(at::equal(one[1], other[1]));

    const auto state = [](const small::Options& o) {
      auto trainer = small::trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, o);
      trainer.run(2);
      return small::state_of(trainer);
    };
    CHECK(small::same_bits(state(options(shared)), state(options(shared))));
  }
  CHECK_FALSE(
      at::equal(joined(batches_of(options(true))).eps, joined(batches_of(options(false))).eps));
}

TEST_CASE("groups of one sample get the numbers that they get without sharing") {
  const auto noise = [](bool shared) {
    const StoringTerm term;
    cf::OfflineTrainer trainer(
        small::policy(),
        cf::StoredSamples{laws::floats({5, 2}), laws::doubles({5}), at::arange(5, at::kLong)}, term,
        options(shared).forward);
    trainer.run(1);
    return term.batches->front();
  };
  // Sample i is the one of group i: numbers belong to the same names.
  const Noise own = noise(false), shared = noise(true);
  CHECK(laws::same_bits(shared.eps, own.eps));
  CHECK(laws::same_bits(shared.t, own.t));
}
