#pragma once

#include <catch2/catch_test_macros.hpp>

#include <contraflow/advantage/concept.hpp>
#include <contraflow/advantage/groups.hpp>

#include "laws/compare.hpp"

namespace laws {

/// The laws of Advantage.
template <contraflow::Advantage A>
void advantage(const A& advantage) {
  // Groups of sizes 1, 2, 3 and 7, not sorted, with ids that are just numbers.
  const Tensor group = at::tensor({5, -3, 5, 900, -3, 5, 12, 5, 900, 5, 5, -3, 5}, at::kLong);
  const Tensor reward = doubles({13}, 4) * 3 + 1;
  const Tensor a = advantage(reward, group);
  CHECK(a.sizes() == reward.sizes());
  CHECK(a.scalar_type() == at::kDouble);
  CHECK(a.isfinite().all().template item<bool>());

  const auto sum_of = [&](const Tensor& values, std::int64_t id) {
    return values.masked_select(group == id).sum().template item<double>();
  };
  for (const std::int64_t id : {5, -3, 900, 12}) CHECK(std::abs(sum_of(a, id)) < 1e-12);
  CHECK(a.abs().sum().template item<double>() > 1);

  const Tensor order = shuffled(13);
  CHECK(relative_distance(advantage(reward.index_select(0, order), group.index_select(0, order)),
                          a.index_select(0, order)) < 1e-13);
  // The best of a group has the greatest advantage.
  CHECK(a.masked_select(group == 5).argmax().template item<int>() ==
        reward.masked_select(group == 5).argmax().template item<int>());

  // Equal rewards of a group give exactly zero, also where their mean is not exact.
  const Tensor mixed = at::where(group == 5, at::full_like(reward, 0.1), reward);
  CHECK(advantage(mixed, group).masked_select(group == 5).abs().max().template item<double>() == 0);
  CHECK(advantage(at::full_like(reward, 1.0 / 3), group).abs().max().template item<double>() == 0);
}

}  // namespace laws
