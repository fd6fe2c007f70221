#pragma once

/// @file
/// Advantages of several rewards, each compared by itself.

#include <concepts>
#include <cstdint>
#include <span>
#include <utility>

#include <contraflow/advantage/advantages.hpp>

namespace contraflow {

/// `a.of_rewards(scores, weights, group)`: advantages out of every reward of every sample, where
/// a(reward, group) would see their sum alone.
template <class A>
concept HasAdvantagesOfRewards = requires(const A& a, const Tensor& scores, const Tensor& weights,
                                          const Tensor& group) {
  { a.of_rewards(scores, weights, group) } -> std::convertible_to<Tensor>;
};

/// How the sum of the advantages of several rewards is normalised over the epoch.
enum class BatchSpread {
  std,   ///< divided by its standard deviation, as published
  none,  ///< left as it is
};

namespace detail {
/// The advantage of each reward where none is said: for GroupAdvantage as GDPO is published.
template <class A>
A advantage_of_each() {
  if constexpr (std::same_as<A, GroupAdvantage>) {
    return {.spread = Spread::group, .epsilon = 1e-4, .guard = Guard::add, .unbiased = true};
  } else {
    return {};
  }
}
}  // namespace detail

/// Compares each reward in its group before rewards are added up: GDPO (arXiv 2601.05242) for any
/// Advantage.
///
/// `a_k = of_each(R_k, group)`, `S = sum_k w_k a_k`, `A = S / div(std of S over the epoch)`. A
/// reward that is the same for a whole group takes nothing from the others there, and none wins by
/// its scale; only the ratios of the weights matter. The mean over the epoch of S is not
/// subtracted: it is 0 since each group's is, and so a sample that nothing speaks for or against
/// keeps exactly 0. A reward that abstains from a sample adds 0 there, and its others are compared
/// among themselves.
///
/// A component of a trainer in the place of an Advantage; by a single reward it is one.
/// @tparam A an Advantage
template <Advantage A = GroupAdvantage>
struct PerReward {
  BatchSpread batch_spread = BatchSpread::std;  ///< what is done to the sum
  Guard batch_guard = Guard::add;               ///< how epsilon keeps its divisor from zero
  double batch_epsilon = 1e-4;                  ///< above 0
  bool unbiased = true;                         ///< the standard deviation of the sum with N - 1
  A of_each = detail::advantage_of_each<A>();   ///< compares the samples of a group by one reward

  /// The advantages by each reward, before weights; 0 where it abstains.
  /// @par Shape
  /// @p scores float64 [R, N], NaN where a reward abstains; @p group int64 [N]; result float64
  /// [R, N]
  /// @throws Error if shapes or types do not fit
  Tensor each(const Tensor& scores, const Tensor& group) const {
    expects_scores(scores);
    Tensor advantages = at::zeros_like(scores);
    for (std::int64_t k = 0; k < scores.size(0); ++k) {
      const Tensor rows = scores[k].isnan().logical_not().nonzero().flatten();
      if (rows.numel() == 0) continue;
      advantages[k].index_copy_(
          0, rows, Tensor(of_each(scores[k].index_select(0, rows), group.index_select(0, rows))));
    }
    return advantages;
  }

  /// The weighted sum of the advantages by each reward.
  /// @par Shape
  /// @p scores float64 [R, N], @p weights float64 [R], @p group int64 [N]; result float64 [N]
  /// @throws Error if shapes or types do not fit
  Tensor combined(const Tensor& scores, const Tensor& weights, const Tensor& group) const {
    const Tensor advantages = each(scores, group);
    if (weights.sizes() != at::IntArrayRef({scores.size(0)})) {
      throw Error("weights", "one a reward, shape [" + shown(scores.size(0)) + "]",
                  shape_text(weights));
    }
    return (weights.unsqueeze(1) * advantages).sum(0);
  }

  /// The advantages.
  /// @par Shape
  /// @p scores float64 [R, N], NaN where a reward abstains; @p weights float64 [R]; @p group int64
  /// [N]; result float64 [N]
  /// @throws Error if shapes or types do not fit, or the epsilon is not above 0
  Tensor of_rewards(const Tensor& scores, const Tensor& weights, const Tensor& group) const {
    const Tensor sum = combined(scores, weights, group).contiguous();
    if (batch_spread == BatchSpread::none) return sum;
    expects(batch_epsilon > 0, "batch_epsilon", "above 0", batch_epsilon);
    const std::span<const double> all(data_of<const double>(sum),
                                      static_cast<std::size_t>(sum.numel()));
    return sum / guarded(unbiased ? unbiased_std_of(all) : std_of(all), batch_guard, batch_epsilon);
  }

  /// The advantages by a single reward.
  /// @par Shape
  /// @p reward float64 [N], @p group int64 [N]; result float64 [N]
  /// @throws Error if shapes or types do not fit, or a reward is not finite
  Tensor operator()(const Tensor& reward, const Tensor& group) const {
    expects_rewards(reward, group);
    return of_rewards(reward.unsqueeze(0), at::ones({1}, at::kDouble), group);
  }

 private:
  static void expects_scores(const Tensor& scores) {
    if (scores.defined() && scores.dim() == 2 && scores.scalar_type() == at::kDouble) return;
    throw Error("scores", "float64 [R, N], a row each reward", shape_text(scores));
  }
};

/// GDPO as published: the samples of a group compared by each reward, over its standard deviation
/// in the group (arXiv 2601.05242).
using Gdpo = PerReward<GroupAdvantage>;

}  // namespace contraflow
