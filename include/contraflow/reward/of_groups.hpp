#pragma once

/// @file
/// Rewards that see all samples of a prompt at once.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <contraflow/reward/concept.hpp>

namespace contraflow {

/// `r.of_group(x0)` gives a score a sample of a group.
template <class R>
concept HasGroupScores = requires(const R& reward, const Tensor& x0) {
  { reward.of_group(x0) } -> detail::ScoresLike;
};
/// `r.of_group(x0, reference)` gives a score a sample of a group.
template <class R, class Reference>
concept HasReferencedGroupScores = requires(const R& reward, const Tensor& x0,
                                            const Reference& reference) {
  { reward.of_group(x0, reference) } -> detail::ScoresLike;
};

/// A black box that scores the samples of a group by comparing them; higher is better.
///
/// Valid expressions: `r.of_group(x0)` or `r.of_group(x0, reference)`, called once a group with all
/// its samples x0 [K, ...] and the reference of each, K equal entries. Results are those of a
/// Reward. Laws: the order of the samples does not matter; groups do not influence each other.
/// Where there are no groups, as in an evaluation, it abstains.
template <class R, class Reference = Unconditional>
concept GroupReward = HasGroupScores<R> || HasReferencedGroupScores<R, Reference>;

/// Shares of comparisons that each of some items has won, ties and unreadable answers half
/// (Pref-GRPO, arXiv 2508.20751).
/// @param first, second the items of each comparison, int64 [P]
/// @param winner 1: the first, 2: the second, anything else: a tie; int64 [P]
/// @param items how many there are, at least 1
/// @param decimals to which shares are rounded, half to even; below 0: not at all
/// @return float64 [items]; 0 for one that was never compared
/// @throws Error if shapes do not fit or an item is none
inline Tensor win_rates(const Tensor& first, const Tensor& second, const Tensor& winner,
                        std::int64_t items, int decimals = 3) {
  expects(items >= 1, "items", "at least 1", items);
  expects_like(second, first, "second");
  expects_like(winner, first, "winner");
  expects_below(first, items, "first", "numbers of items");
  expects_below(second, items, "second", "numbers of items");
  const Tensor wins = at::zeros({items}, at::kDouble), count = at::zeros({items}, at::kDouble);
  const Tensor won = (winner == 1).to(at::kDouble), lost = (winner == 2).to(at::kDouble);
  const Tensor tied = 1 - won - lost, one = at::ones_like(won);
  wins.index_add_(0, first, won + tied / 2).index_add_(0, second, lost + tied / 2);
  count.index_add_(0, first, one).index_add_(0, second, one);
  const Tensor rate = wins / count.clamp_min(1);
  if (decimals < 0) return rate;
  const double unit = std::pow(10.0, decimals);
  return (rate * unit).round() / unit;
}

/// A judge's win rates with those of categories.
struct CategoryRates {
  Tensor overall;        ///< float64 [items]
  Tensor category_mean;  ///< mean over categories, float64 [items]
  Tensor reward;         ///< their weighted average, float64 [items]
};

/// The average of an overall win rate and the mean one of several categories (Pref-GRPO, arXiv
/// 2508.20751).
/// @param overall win rates, see win_rates()
/// @param categories win rates of each category, not rounded, float64 [D, items]
/// @param overall_weight, category_weight at least 0, not both 0
/// @param decimals to which the mean is rounded, half to even; below 0: not at all
/// @throws Error if a weight is out of range
inline CategoryRates category_rates(const Tensor& overall, const Tensor& categories,
                                    double overall_weight, double category_weight,
                                    int decimals = 3) {
  expects(overall_weight >= 0, "overall_weight", "at least 0", overall_weight);
  expects(category_weight >= 0, "category_weight", "at least 0", category_weight);
  const double both = overall_weight + category_weight;
  expects(both > 0, "overall_weight", "weights that are not both 0", both);
  const double unit = std::pow(10.0, std::max(decimals, 0));
  const Tensor mean = categories.mean(0);
  const Tensor rounded = decimals < 0 ? mean : (mean * unit).round() / unit;
  return {overall, rounded, (overall_weight * overall + category_weight * rounded) / both};
}

/// All pairs of a number of items, each once, in rising order.
/// @return first and second, int64 [P]
inline std::pair<Tensor, Tensor> all_pairs(std::int64_t items) {
  const Tensor pairs = at::combinations(at::arange(items, at::kLong));
  return {pairs.select(1, 0).contiguous(), pairs.select(1, 1).contiguous()};
}

/// Ranks of scores over the number of those that are there: 0 for the worst, `(K - 1) / K` for the
/// best; ties share their mean rank, NaN stays.
/// @par Shape
/// float64 [K] to [K]
inline Tensor rank_rewards(const Tensor& score) {
  const Tensor less = (score.unsqueeze(0) < score.unsqueeze(1)).sum(1).to(at::kDouble);
  const Tensor equal = (score.unsqueeze(0) == score.unsqueeze(1)).sum(1).to(at::kDouble);
  const Tensor there = score.isnan().logical_not().sum().clamp_min(1);
  const Tensor rank = (less + (equal - 1) / 2) / there;
  return at::where(score.isnan(), score.to(at::kDouble), rank);
}

/// How pairs are compared.
struct PairwiseOptions {
  /// Each pair is judged a second time in the other order, against a bias of the judge for a place;
  /// published programs judge once.
  bool both_orders = false;
  int decimals = 3;  ///< to which win rates are rounded, half to even; below 0: not at all
};

/// The win rate of a sample against the others of its group, by a judge of pairs: Pref-GRPO's
/// reward (arXiv 2508.20751).
///
/// The judge is called once a group with all pairs, as `judge(first, second)` or `judge(first,
/// second, reference)` with samples [P, ...] and the reference of each pair, and gives int64 [P]: 1
/// where the first is better, 2 where the second is, 0 where neither is or it cannot tell. K - 1
/// comparisons leave few values, and a group of all ties is all equal: nothing is learnt there.
/// From a sample that is alone in its group it abstains.
template <class Judge>
class PairwiseReward {
 public:
  /// @param judge see above
  /// @param options of the comparison
  explicit PairwiseReward(Judge judge, PairwiseOptions options = {})
      : judge_(std::move(judge)), options_(options) {}

  /// Win rates of a group.
  /// @throws Error if the judge does not give one answer a pair
  PartialScores of_group(
      const Tensor& x0) const requires std::invocable<const Judge&, const Tensor&, const Tensor&> {
    return rates(x0, [&](const Tensor& a, const Tensor& b, const Tensor&) { return judge_(a, b); });
  }
  /// Win rates of a group.
  /// @throws Error if the judge does not give one answer a pair
  template <class Reference>
  PartialScores of_group(const Tensor& x0, const Reference& reference)
      const requires std::invocable<const Judge&, const Tensor&, const Tensor&, const Reference&> {
    return rates(x0, [&](const Tensor& a, const Tensor& b, const Tensor& rows) {
      return judge_(a, b, select(reference, rows));
    });
  }

 private:
  template <class Ask>
  PartialScores rates(const Tensor& x0, Ask&& ask) const {
    const std::int64_t items = x0.size(0);
    auto [first, second] = all_pairs(items);
    if (first.numel() == 0) {
      return {at::zeros({items}, at::kDouble), at::ones({items}, at::kBool)};
    }
    if (options_.both_orders) {
      const Tensor once = first;
      first = at::cat({once, second});
      second = at::cat({second, once});
    }
    const auto rows = [&](const Tensor& which) {
      return x0.index_select(0, on_device(which, x0.device()));
    };
    const Tensor winner = Tensor(ask(rows(first), rows(second), first)).to(at::kCPU, at::kLong);
    if (winner.sizes() != first.sizes()) {
      throw Error("judge", "one answer a pair, shape " + shape_text(first), shape_text(winner));
    }
    return {win_rates(first, second, winner, items, options_.decimals), {}};
  }

  Judge judge_;
  PairwiseOptions options_;
};

/// The rank of a sample in its group by another reward, see rank_rewards(): for scores whose
/// differences mean little.
template <class R>
class RankReward {
 public:
  /// @param reward a Reward
  explicit RankReward(R reward) : reward_(std::move(reward)) {}

  /// Ranks of a group; it abstains where the reward does.
  PartialScores of_group(const Tensor& x0) const requires HasScores<R> {
    return ranks(x0, Unconditional{});
  }
  /// Ranks of a group; it abstains where the reward does.
  template <class Reference>
  PartialScores of_group(const Tensor& x0, const Reference& reference) const requires
      HasReferencedScores<R, Reference> {
    return ranks(x0, reference);
  }

 private:
  template <class Reference>
  PartialScores ranks(const Tensor& x0, const Reference& reference) const {
    const PartialScores given = detail::given_scores(reward_, x0, reference);
    detail::expects_scores(given, x0.size(0), "reward");
    return {rank_rewards(detail::without_abstentions(given)), given.abstains};
  }

  R reward_;
};

namespace detail {

/// What a group reward gives, as float64 on the CPU.
template <class R, class Reference>
PartialScores group_scores(const R& reward, const Tensor& x0, const Reference& reference) {
  const auto called = [&] {
    if constexpr (HasReferencedGroupScores<R, Reference>) {
      return reward.of_group(x0, reference);
    } else {
      return reward.of_group(x0);
    }
  };
  return given_scores([&](const Tensor&) { return called(); }, x0, Unconditional{});
}

}  // namespace detail

}  // namespace contraflow
