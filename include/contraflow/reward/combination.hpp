#pragma once

/// @file
/// Named rewards that add up to one.

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/members.hpp>
#include <contraflow/core/meta.hpp>
#include <contraflow/reward/concept.hpp>
#include <contraflow/reward/differentiable.hpp>
#include <contraflow/reward/of_groups.hpp>

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
  /// Where a score is missing because the reward abstains, and has not failed: bool [R, N];
  /// undefined where no reward can.
  Tensor abstained = {};
};

/// The scores of several rewards for the same samples, as they would be added up.
struct RewardComponents {
  Tensor values;   ///< normalised as their rewards say, float64 [R, N]; NaN where one abstains
  Tensor weights;  ///< of the rewards, float64 [R]
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

/// @p values [N > 0] normalised over themselves.
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

/// @p values [N] normalised over those that are finite; the others stay as they are.
inline Tensor finite_normalised(const Tensor& values, Normalisation normalisation) {
  const Tensor rows = values.isfinite().nonzero().flatten();
  if (rows.numel() == 0) return values;
  if (rows.numel() == values.numel()) return normalised(values, normalisation);
  return values.index_copy(0, rows, normalised(values.index_select(0, rows), normalisation));
}

/// What is known of the values of a group.
struct KnownValues {
  double sum = 0, least = std::numeric_limits<double>::infinity(), greatest = -least;
  std::int64_t count = 0;

  void add(double value) {
    sum += value;
    least = std::min(least, value);
    greatest = std::max(greatest, value);
    ++count;
  }
  /// Of equal values exactly the same.
  double mean() const { return std::clamp(sum / static_cast<double>(count), least, greatest); }
};

/// @p values [N], normalised or not, with something in the place of what is missing, see RewardBag.
/// @param scores of which they were made: not finite where one is missing, -infinity where the
/// worst
///   counts, else NaN
/// @param group int64 [N]; undefined: all samples are one
/// @param less_is_worse false for a penalty
inline Tensor completed(const Tensor& values, const Tensor& scores, const Tensor& group,
                        bool less_is_worse) {
  if (scores.isfinite().all().item<bool>()) return values;
  Tensor result = values.clone(at::MemoryFormat::Contiguous);
  const Tensor groups = group.defined() ? group.contiguous() : at::zeros_like(result, at::kLong);
  const Tensor given = scores.contiguous();
  auto* value = result.data_ptr<double>();
  const auto* score = given.data_ptr<double>();
  const auto* number = groups.data_ptr<std::int64_t>();
  const std::int64_t n = result.numel();
  std::map<std::int64_t, KnownValues> known;
  KnownValues all;
  for (std::int64_t i = 0; i < n; ++i) {
    if (std::isfinite(score[i])) known[number[i]].add(value[i]);
  }
  for (std::int64_t i = 0; i < n; ++i) {
    KnownValues& own = known[number[i]];
    const bool counts_worst = std::isinf(score[i]) && own.count > 0;
    if (counts_worst) {
      value[i] = less_is_worse ? own.least : own.greatest;
      own.add(value[i]);
    }
    if (counts_worst || std::isfinite(score[i])) all.add(value[i]);
  }
  for (std::int64_t i = 0; i < n; ++i) {
    const KnownValues& own = known[number[i]];
    const bool is_there = std::isfinite(score[i]) || (std::isinf(score[i]) && own.count > 0);
    if (is_there) continue;
    value[i] = own.count > 0 ? own.mean() : all.count > 0 ? all.mean() : 0;
  }
  return result;
}

/// What a reward counts for among several.
struct Share {
  double weight = 1;
  Normalisation normalisation = Normalisation::none;
};

/// The weighted sum of @p scores [R, N], normalised first or as they are.
inline Tensor weighted_sum(const Tensor& scores, const Tensor& group,
                           const std::vector<Share>& shares, bool normalises) {
  Tensor sum = at::zeros({scores.size(1)}, at::kDouble);
  for (std::size_t row = 0; row < shares.size(); ++row) {
    const auto& [weight, normalisation] = shares[row];
    const Tensor own = scores[std::int64_t(row)];
    sum.add_(completed(normalises ? finite_normalised(own, normalisation) : own, own, group,
                       /*less_is_worse=*/weight >= 0),
             weight);
  }
  return sum;
}

/// The components of a weighted sum: where a reward failed its worst score stands, and where it
/// abstains NaN.
inline RewardComponents components_of(const Tensor& scores, const Tensor& group,
                                      const std::vector<Share>& shares) {
  RewardComponents components{at::empty_like(scores), at::empty({scores.size(0)}, at::kDouble)};
  for (std::size_t k = 0; k < shares.size(); ++k) {
    const auto row = std::int64_t(k);
    const auto& [weight, normalisation] = shares[k];
    const Tensor own = scores[row];
    const Tensor all = completed(finite_normalised(own, normalisation), own, group, weight >= 0);
    components.values[row].copy_(all.masked_fill(own.isnan(), std::nan("")));
    components.weights[row] = weight;
  }
  return components;
}

/// A sheet in which every score is missing.
inline ScoreSheet unscored(std::size_t rewards, std::int64_t samples, bool may_abstain) {
  const std::vector<std::int64_t> shape{std::int64_t(rewards), samples};
  return {{},
          at::full(shape, std::numeric_limits<double>::quiet_NaN(), at::kDouble),
          {},
          may_abstain ? at::zeros(shape, at::kBool) : Tensor()};
}

/// Fills a row of a sheet with what @p scores() gives; an exception leaves it as it is and its text
/// in the sheet.
template <class F>
void fill(ScoreSheet& sheet, std::size_t row, std::string name, F&& scores) {
  std::optional<PartialScores> given;
  try {
    given = scores();
  } catch (const std::exception& failure) {
    sheet.failures.push_back(name + ": " + failure.what());
  } catch (...) {
    sheet.failures.push_back(name + ": something that is no std::exception was thrown");
  }
  if (given) {
    const Tensor own = sheet.scores[std::int64_t(row)];
    // What breaks the contract does so in every epoch: it ends the run instead of masking all.
    expects_scores(*given, own.size(0), "reward " + name);
    own.copy_(without_abstentions(*given));
    if (given->abstains.defined()) sheet.abstained[std::int64_t(row)].copy_(given->abstains);
  }
  sheet.names.push_back(std::move(name));
}

/// Fills a row of a sheet with what a reward of groups gives, group by group.
template <class R, class Reference>
void fill_groups(ScoreSheet& sheet, std::int64_t row, const std::string& name, const R& reward,
                 const Tensor& x0, const Reference& reference, const Tensor& group) {
  for (const auto& own : members_of_groups(group.to(at::kCPU))) {
    const Tensor rows = at::tensor(own, at::kLong);
    ScoreSheet part = unscored(1, rows.numel(), /*may_abstain=*/true);
    fill(part, 0, name, [&] {
      return group_scores(reward, x0.index_select(0, on_device(rows, x0.device())),
                          select(reference, rows));
    });
    sheet.scores[row].index_copy_(0, rows, part.scores[0]);
    sheet.abstained[row].index_copy_(0, rows, part.abstained[0]);
    sheet.failures.insert(sheet.failures.end(), part.failures.begin(), part.failures.end());
  }
}

}  // namespace detail

/// What a trainer asks of several rewards together: `b.combine(scores, group)` and
/// `b.combine_raw(scores)` turn scores float64 [R, N] into one reward a sample, float64 [N];
/// `b.score(x0, reference)` gives a ScoreSheet.
///
/// Scores are finite but for two kinds. NaN: the reward abstains from the sample, and its mean
/// stands in, over the others of the sample's group, over all samples where the whole group has
/// none, so that the reward neither raises nor lowers the sample. Minus infinity: the reward has
/// failed, and its worst score within the group counts. What `combine_raw` is given is one group.
template <class B>
concept RewardBag = requires(const B& bag, const Tensor& scores, const Tensor& group) {
  { bag.combine(scores, group) } -> std::convertible_to<Tensor>;
  { bag.combine_raw(scores) } -> std::convertible_to<Tensor>;
};

/// `b.components(scores, group)`: the scores before they are added up, as RewardComponents, for
/// advantages that compare each reward by itself.
template <class B>
concept HasComponents = RewardBag<B> &&
    requires(const B& bag, const Tensor& scores, const Tensor& group) {
  { bag.components(scores, group) } -> std::same_as<RewardComponents>;
};

/// `b.score_groups(sheet, x0, reference, group)`: fills in the scores of the rewards that see whole
/// groups, which `b.score` leaves out as abstained.
template <class B, class Reference>
concept HasGroupRewards = RewardBag<B> &&
    requires(const B& bag, ScoreSheet& sheet, const Tensor& x, const Reference& reference) {
  requires B::template sees_groups<Reference>;
  bag.score_groups(sheet, x, reference, x);
};

/// `b.differentiable(x0, reference)`: the weighted sum of scores in autograd, for objectives on the
/// gradient of the reward; `b.explain_gradients<Reference>()` says in a sentence why there is none.
template <class B, class Reference>
concept HasGradientsOfRewards = RewardBag<B> && requires {
  requires B::template gives_gradients<Reference>;
};

/// Says in a sentence why the bag @p B has no gradient under the reference @p Reference.
template <class B, class Reference>
consteval bool explain_gradients_of_rewards() {
  if constexpr (requires { B::template explain_gradients<Reference>(); }) {
    return B::template explain_gradients<Reference>();
  } else {
    static_assert(HasGradientsOfRewards<B, Reference>,
                  "contraflow: this objective trains on the gradient of the reward, and this bag "
                  "gives scores alone: give the trainer a Reward made by differentiable(reward), "
                  "or rewards(...) of such");
    return true;
  }
}

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

  /// Whether one of the rewards sees whole groups.
  template <class Reference>
  static constexpr bool sees_groups = (GroupReward<R, Reference> || ...);

  /// Scores samples with every reward, but for those that see whole groups: they abstain here.
  ///
  /// A reward that throws leaves NaN for the whole batch and its text in the sheet: it does not
  /// end the run. One that abstains from a sample leaves NaN and says so in the sheet.
  /// @par Shape
  /// @p x0 [B, ...]
  /// @param x0 clean samples
  /// @param reference of their prompts, B entries
  /// @throws Error if a reward does not give one score a sample
  template <class Reference>
  ScoreSheet score(const Tensor& x0, const Reference& reference) const {
    ScoreSheet sheet = detail::unscored(
        count, x0.size(0), sees_groups<Reference> || (detail::may_abstain<R, Reference>() || ...));
    entries_.for_each([&](std::size_t row, std::string_view name, const auto& entry) {
      using Own = std::remove_cvref_t<decltype(entry.reward)>;
      if constexpr (GroupReward<Own, Reference>) {
        sheet.abstained[std::int64_t(row)].fill_(true);
        sheet.names.emplace_back(name);
      } else {
        static_assert(explain_reward<Own, Reference>());
        detail::fill(sheet, row, std::string(name),
                     [&] { return detail::given_scores(entry.reward, x0, reference); });
      }
    });
    return sheet;
  }

  /// Fills in the scores of the rewards that see whole groups, each group by itself. One that
  /// throws has failed on that group.
  /// @param sheet of all samples, from score()
  /// @param x0 all samples [N, ...]
  /// @param reference of their prompts, N entries
  /// @param group of each, int64 [N]
  /// @throws Error if a reward does not give one score a sample
  template <class Reference>
  void score_groups(ScoreSheet& sheet, const Tensor& x0, const Reference& reference,
                    const Tensor& group) const requires(sees_groups<Reference>) {
    entries_.for_each([&](std::size_t row, std::string_view name, const auto& entry) {
      using Own = std::remove_cvref_t<decltype(entry.reward)>;
      if constexpr (GroupReward<Own, Reference>) {
        detail::fill_groups(sheet, std::int64_t(row), std::string(name), entry.reward, x0,
                            reference, group);
      }
    });
  }

  /// Whether all of the rewards have gradients.
  template <class Reference>
  static constexpr bool gives_gradients = (DifferentiableReward<R, Reference> && ...);
  /// Says in a sentence which declaration a reward without a gradient lacks.
  template <class Reference>
  static consteval bool explain_gradients() {
    return (explain_differentiable_reward<R, Reference>() && ...);
  }
  /// The weighted sum of scores as they are, in autograd.
  /// @param x0 samples [B, ...]
  /// @param reference of their prompts, B entries
  /// @return [B], with gradient where the samples have one
  /// @throws Error if a reward does not give one score a sample, or has no gradient after all; if
  /// one is to be normalised, which takes an epoch's scores together
  template <class Reference>
  Tensor differentiable(const Tensor& x0, const Reference& reference) const
      requires(gives_gradients<Reference>) {
    Tensor sum;
    entries_.for_each([&](std::size_t, std::string_view name, const auto& entry) {
      expects(entry.normalisation == Normalisation::none, "normalisation",
              "none, where the gradient of a reward is trained on", std::string(name));
      const Tensor own = entry.weight * differentiable_scores(entry.reward, x0, reference);
      sum = sum.defined() ? sum + own : own;
    });
    return sum;
  }

  /// The weighted sum of normalised scores; for what is missing see RewardBag.
  /// @par Shape
  /// @p scores float64 [R, N]; result float64 [N]
  /// @param scores finite, NaN or minus infinity
  /// @param group int64 [N]; undefined: all samples are one
  Tensor combine(const Tensor& scores, const Tensor& group = {}) const {
    return detail::weighted_sum(scores, group, shares(), /*normalises=*/true);
  }

  /// The scores before they are added up.
  /// @par Shape
  /// @p scores float64 [R, N], @p group int64 [N]
  /// @param scores finite, NaN or minus infinity
  /// @param group of each sample
  RewardComponents components(const Tensor& scores, const Tensor& group) const {
    return detail::components_of(scores, group, shares());
  }

  /// The weighted sum of scores as they are: comparable between evaluations, where normalised
  /// scores always have the same mean.
  /// @par Shape
  /// @p scores float64 [R, N], finite or NaN; result float64 [N]
  Tensor combine_raw(const Tensor& scores) const {
    return detail::weighted_sum(scores, {}, shares(), /*normalises=*/false);
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
