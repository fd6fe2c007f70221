#pragma once

#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/train/collector.hpp>

#include "laws/compare.hpp"

namespace laws {

/// The samples of an epoch, and that they were told of in order where the collector tells.
template <class Record, class S, class P, class Prompts>
contraflow::Rollout<Record> collected(const S& collector,
                                      const contraflow::CollectorContext<P, Prompts>& context) {
  static_assert(contraflow::Collector<S, P, Prompts, Record>);
  if constexpr (contraflow::HasCollect<S, P, Prompts, Record>) {
    return collector.collect(context);
  } else {
    std::vector<Tensor> x0, prompt;
    const auto rollout = collector.collect(context, [&](const Tensor& some, const Tensor& of) {
      x0.push_back(some.clone());
      prompt.push_back(of.clone());
    });
    CHECK(same_bits(at::cat(x0), rollout.x0));
    CHECK(same_bits(at::cat(prompt), rollout.prompt));
    return rollout;
  }
}

/// The laws of Collector, for one that draws.
/// @tparam Record what it records
template <class Record, class S, class P, class Prompts>
void collector(const S& collector, P& policy, const Prompts& prompts) {
  contraflow::EvaluationCount count;
  const auto epoch = [&](std::int64_t number, std::uint64_t seed) {
    return collected<Record>(collector,
                             contraflow::CollectorContext<P, Prompts>{
                                 policy, prompts, contraflow::Role::current, number, seed, count});
  };
  const auto rollout = epoch(3, 5);
  const std::int64_t size = rollout.size();
  REQUIRE(size > 0);
  for (const Tensor& names : {rollout.prompt, rollout.group, rollout.id}) {
    CHECK(names.sizes() == at::IntArrayRef({size}));
    CHECK(names.scalar_type() == at::kLong);
    CHECK(names.is_cpu());
  }
  CHECK(std::get<0>(at::_unique(rollout.id)).numel() == size);
  CHECK(rollout.prompt.max().template item<std::int64_t>() < prompts.size());
  // Samples depend on the seed and the epoch, and on nothing that was done before.
  CHECK(same_bits(epoch(3, 5).x0, rollout.x0));
  CHECK_FALSE(at::equal(epoch(4, 5).x0, rollout.x0));
  CHECK_FALSE(at::equal(epoch(3, 6).x0, rollout.x0));
}

}  // namespace laws
