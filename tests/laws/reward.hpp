#pragma once

#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/concept.hpp>

#include "laws/compare.hpp"

namespace laws {

/// The laws of Reward: one score a sample, or none, made of the sample and its own reference,
/// whatever else is in the batch.
/// @param x0 at least three samples
/// @param reference one entry a sample: a tensor, a list or a Condition
template <class R, class Reference = contraflow::Unconditional>
void reward(const R& reward, const Tensor& x0, const Reference& reference = {}) {
  using contraflow::select;
  static_assert(contraflow::Reward<R, Reference>);
  // A product of another number of rows may be summed in another order, and scores may cancel.
  constexpr double tolerance = 1e-5;
  const auto run = [&](const Tensor& rows) {
    return contraflow::scores_of(reward, x0.index_select(0, rows), select(reference, rows));
  };
  const Tensor all = at::arange(x0.size(0), at::kLong), scores = run(all);
  CHECK(scores.sizes() == at::IntArrayRef({x0.size(0)}));
  CHECK(scores.scalar_type() == at::kDouble);
  const auto same = [](const Tensor& a, const Tensor& b) {
    return a.isnan().equal(b.isnan()) &&
           relative_distance(a.nan_to_num(), b.nan_to_num()) < tolerance;
  };
  const Tensor order = shuffled(x0.size(0));
  CHECK(same(run(order), scores.index_select(0, order)));
  const std::int64_t half = x0.size(0) / 2;
  CHECK(same(at::cat({run(all.slice(0, 0, half)), run(all.slice(0, half))}), scores));
}

}  // namespace laws
