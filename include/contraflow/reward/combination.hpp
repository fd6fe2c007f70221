#pragma once

/// @file
/// Named rewards that add up to one.

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/meta.hpp>
#include <contraflow/reward/concept.hpp>

namespace contraflow {

/// What is done to the scores of one reward before they are added up, over all samples scored
/// together.
enum class Normalisation {
  none,      ///< taken as they are
  standard,  ///< mean 0 and population standard deviation 1; all equal: 0
  min_max,   ///< least 0, greatest 1; all equal: 0
  rank,      ///< evenly from 0 (least) to 1 (greatest), ties share their mean rank
};

/// A reward with its share in a combination.
template <class R>
struct Weighted {
  R reward;                                           ///< what scores
  double weight = 1;                                  ///< its factor in the sum
  Normalisation normalisation = Normalisation::none;  ///< done to its scores first
};

/// A reward with a weight and a normalisation, for rewards().
/// @param reward a Reward
/// @param weight its factor in the sum, finite; negative for a penalty
/// @param normalisation done to its scores first
/// @throws Error if the weight is not finite
template <class R>
Weighted<R> weighted(R reward, double weight, Normalisation normalisation = Normalisation::none) {
  expects(std::isfinite(weight), "weight", "a finite number", weight);
  return {std::move(reward), weight, normalisation};
}

/// The name of a reward; `"target"_r = reward` names it.
template <meta::FixedString Text>
struct RewardName : meta::Name<Text> {
  /// A reward under this name, of weight 1.
  template <class R>
  constexpr auto operator=(R reward) const {  // NOLINT: names, does not assign
    return meta::Named<RewardName, Weighted<R>>{{std::move(reward)}};
  }
  /// A weighted reward under this name.
  template <class R>
  constexpr auto operator=(Weighted<R> reward) const {  // NOLINT
    return meta::Named<RewardName, Weighted<R>>{std::move(reward)};
  }
};

inline namespace literals {
/// The name of a reward.
template <meta::FixedString Text>
constexpr RewardName<Text> operator""_r() {
  return {};
}
}  // namespace literals

/// Scores of several rewards for the same samples.
struct ScoreSheet {
  std::vector<std::string> names;     ///< of the rewards
  Tensor scores;                      ///< float64 [R, N]; not finite where a score is missing
  std::vector<std::string> failures;  ///< what() of exceptions that rewards threw
};

namespace detail {

/// Whether all values are one; their mean need not be that one in floating point.
inline bool all_equal(const Tensor& values) { return (values == values[0]).all().item<bool>(); }

/// Ranks from 0 to 1, ties sharing their mean rank.
inline Tensor ranks(const Tensor& values) {
  const std::int64_t n = values.numel();
  const Tensor order = values.argsort();
  const auto* at_rank = order.data_ptr<std::int64_t>();
  const auto* value = values.data_ptr<double>();
  Tensor result = at::zeros({n}, at::kDouble);
  auto* rank = result.data_ptr<double>();
  for (std::int64_t first = 0; first < n;) {
    std::int64_t last = first;
    while (last + 1 < n && value[at_rank[last + 1]] == value[at_rank[first]]) ++last;
    const double shared = n == 1 ? 0.5 : 0.5 * static_cast<double>(first + last) / double(n - 1);
    for (std::int64_t k = first; k <= last; ++k) rank[at_rank[k]] = shared;
    first = last + 1;
  }
  return result;
}

/// @p values [N] normalised over themselves.
inline Tensor normalised(const Tensor& values, Normalisation normalisation) {
  switch (normalisation) {
    case Normalisation::none:
      return values;
    case Normalisation::standard:
      if (all_equal(values)) return at::zeros_like(values);
      return (values - values.mean()) / values.std(/*unbiased=*/false);
    case Normalisation::min_max:
      if (all_equal(values)) return at::zeros_like(values);
      return (values - values.min()) / (values.max() - values.min());
    case Normalisation::rank:
      return ranks(values);
  }
  return values;
}

/// What a reward counts for among several.
struct Share {
  double weight = 1;
  Normalisation normalisation = Normalisation::none;
};

/// The weighted sum of @p scores [R, N], normalised first or as they are.
inline Tensor weighted_sum(const Tensor& scores, const std::vector<Share>& shares,
                           bool normalises) {
  Tensor sum = at::zeros({scores.size(1)}, at::kDouble);
  for (std::size_t row = 0; row < shares.size(); ++row) {
    const auto& [weight, normalisation] = shares[row];
    const Tensor own = scores[std::int64_t(row)];
    sum.add_(normalises ? normalised(own, normalisation) : own, weight);
  }
  return sum;
}

/// A sheet in which every score is missing.
inline ScoreSheet unscored(std::size_t rewards, std::int64_t samples) {
  return {{},
          at::full({std::int64_t(rewards), samples}, std::numeric_limits<double>::quiet_NaN(),
                   at::kDouble),
          {}};
}

/// Fills a row of a sheet with what @p scores() gives; an exception leaves it as it is and its text
/// in the sheet.
template <class F>
void fill(ScoreSheet& sheet, std::size_t row, std::string name, F&& scores) {
  std::optional<Tensor> given;
  try {
    given = scores();
  } catch (const std::exception& failure) {
    sheet.failures.push_back(name + ": " + failure.what());
  }
  if (given) {
    const Tensor own = sheet.scores[std::int64_t(row)];
    // What breaks the contract does so in every epoch: it ends the run instead of masking all.
    expects_scores(*given, own.size(0), "reward " + name);
    own.copy_(*given);
  }
  sheet.names.push_back(std::move(name));
}

}  // namespace detail

/// What a trainer asks of several rewards together: `b.combine(scores)` and `b.combine_raw(scores)`
/// turn scores [R, N] into one reward a sample [N]; `b.score(x0, reference)` gives a ScoreSheet.
template <class B>
concept RewardBag = requires(const B& bag, const Tensor& scores) {
  { bag.combine(scores) } -> std::convertible_to<Tensor>;
  { bag.combine_raw(scores) } -> std::convertible_to<Tensor>;
};

/// A bag of named rewards, each with its weight and normalisation, that adds up to one reward.
template <class... Entries>
class Rewards;

/// See the template.
template <class... Names, class... R>
class Rewards<meta::Named<Names, Weighted<R>>...> {
 public:
  static constexpr std::size_t count = sizeof...(R);  ///< number of rewards
  static_assert(count > 0, "contraflow: rewards(...) needs at least one reward");

  /// Made by rewards().
  explicit Rewards(meta::Named<Names, Weighted<R>>... entries) : entries_(std::move(entries)...) {}

  /// The rewards under their names.
  const auto& entries() const { return entries_; }

  /// Scores samples with every reward.
  ///
  /// A reward that throws leaves NaN for the whole batch and its text in the sheet: it does not
  /// end the run.
  /// @par Shape
  /// @p x0 [B, ...]
  /// @param x0 clean samples
  /// @param reference of their prompts, B entries
  /// @throws Error if a reward does not give one score a sample
  template <class Reference>
  ScoreSheet score(const Tensor& x0, const Reference& reference) const {
    ScoreSheet sheet = detail::unscored(count, x0.size(0));
    entries_.for_each([&](std::size_t row, std::string_view name, const auto& entry) {
      static_assert(explain_reward<std::remove_cvref_t<decltype(entry.reward)>, Reference>());
      detail::fill(sheet, row, std::string(name),
                   [&] { return detail::given_scores(entry.reward, x0, reference); });
    });
    return sheet;
  }

  /// The weighted sum of normalised scores of samples that have all scores.
  /// @par Shape
  /// @p scores float64 [R, N], finite; result float64 [N]
  Tensor combine(const Tensor& scores) const {
    return detail::weighted_sum(scores, shares(), /*normalises=*/true);
  }

  /// The weighted sum of scores as they are: comparable between evaluations, where normalised
  /// scores always have the same mean.
  /// @par Shape
  /// @p scores float64 [R, N], finite; result float64 [N]
  Tensor combine_raw(const Tensor& scores) const {
    return detail::weighted_sum(scores, shares(), /*normalises=*/false);
  }

 private:
  std::vector<detail::Share> shares() const {
    std::vector<detail::Share> result;
    entries_.for_each([&](std::size_t, std::string_view, const auto& entry) {
      result.push_back({entry.weight, entry.normalisation});
    });
    return result;
  }

  meta::NamedMap<meta::Named<Names, Weighted<R>>...> entries_;
};

/// Combines named rewards: `rewards("target"_r = a, "size"_r = weighted(b, 0.5))`.
///
/// The names are types: a name that is used twice does not compile.
/// @param entries named rewards, in the order in which they are reported
template <class... Names, class... R>
auto rewards(meta::Named<Names, Weighted<R>>... entries) {
  return Rewards<meta::Named<Names, Weighted<R>>...>(std::move(entries)...);
}

/// A bag of rewards as it is; a single reward under the name "reward".
template <class R>
auto as_rewards(R reward) {
  using namespace literals;
  if constexpr (RewardBag<R>) {
    return reward;
  } else {
    return rewards("reward"_r = std::move(reward));
  }
}

}  // namespace contraflow
