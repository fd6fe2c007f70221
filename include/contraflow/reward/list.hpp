#pragma once

/// @file
/// Rewards that are chosen while a program runs.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/reward/combination.hpp>

namespace contraflow {

/// A bag of named rewards whose names are known only when the program runs, such as from its
/// command line. Where they are known before, rewards() finds mistakes earlier.
/// @tparam Reference what the prompts tell rewards: `Captions`, `Records`, or their condition
template <class Reference>
class RewardList {
 public:
  /// Scores of samples [B, ...] for a reference of B rows.
  using Score = std::function<PartialScores(const Tensor& x0, const Reference& reference)>;

  /// Adds a reward.
  /// @param name not used yet
  /// @param reward a Reward under the reference
  /// @param weight of its scores in the sum, finite
  /// @param normalisation of its scores before they are summed
  /// @throws Error if the name is used or the weight is not finite
  template <class R>
  void add(const std::string& name, R reward, double weight = 1,
           Normalisation normalisation = Normalisation::none) {
    static_assert(explain_reward<R, Reference>());
    for (const Entry& entry : entries_) {
      expects(entry.name != name, "name", "a reward that is not in the list yet", name);
    }
    expects(std::isfinite(weight), "weight", "a finite number", weight);
    entries_.push_back(
        {name, [reward = std::move(reward)](const Tensor& x0, const Reference& reference) {
           return detail::given_scores(reward, x0, reference);
         }});
    shares_.push_back({weight, normalisation});
    may_abstain_ = may_abstain_ || detail::may_abstain<R, Reference>();
  }

  /// @p name, or where it is in the list `name-2`, `name-3` and so on: for rewards of one kind.
  std::string unused(const std::string& name) const {
    const auto is_used = [&](const std::string& wanted) {
      return std::any_of(entries_.begin(), entries_.end(),
                         [&](const Entry& entry) { return entry.name == wanted; });
    };
    std::string free = name;
    for (int number = 2; is_used(free); ++number) free = name + "-" + std::to_string(number);
    return free;
  }

  /// Number of rewards.
  std::size_t size() const { return entries_.size(); }

  /// Scores samples with every reward; one that throws leaves NaN and its text in the sheet, one
  /// that abstains from a sample NaN and a sign.
  /// @par Shape
  /// @p x0 [B, ...]
  /// @throws Error if a reward does not give one score a sample
  ScoreSheet score(const Tensor& x0, const Reference& reference) const {
    ScoreSheet sheet = detail::unscored(entries_.size(), x0.size(0), may_abstain_);
    for (std::size_t row = 0; row < entries_.size(); ++row) {
      detail::fill(sheet, row, entries_[row].name,
                   [&] { return entries_[row].score(x0, reference); });
    }
    return sheet;
  }
  /// Says in a sentence that the prompts give another reference than the list was made for.
  template <class Other>
  ScoreSheet score(const Tensor&, const Other&) const
      requires(!std::convertible_to<const Other&, Reference>) {
    static_assert(std::same_as<Other, Reference>,
                  "contraflow: a RewardList<Reference> is scored under that reference, and the "
                  "prompts give another: `PromptRows(condition, references)` says which");
    return {};
  }
  /// The weighted sum of normalised scores; for what is missing see RewardBag.
  /// @par Shape
  /// @p scores float64 [R, N]; result float64 [N]
  /// @param scores finite, NaN or minus infinity
  /// @param group int64 [N]; undefined: all samples are one
  Tensor combine(const Tensor& scores, const Tensor& group = {}) const {
    return detail::weighted_sum(scores, group, shares_, /*normalises=*/true);
  }
  /// The scores before they are added up.
  /// @par Shape
  /// @p scores float64 [R, N], @p group int64 [N]
  /// @param scores finite, NaN or minus infinity
  /// @param group of each sample
  RewardComponents components(const Tensor& scores, const Tensor& group) const {
    return detail::components_of(scores, group, shares_);
  }
  /// The weighted sum of scores as they are.
  /// @par Shape
  /// @p scores float64 [R, N], finite or NaN; result float64 [N]
  Tensor combine_raw(const Tensor& scores) const {
    return detail::weighted_sum(scores, {}, shares_, /*normalises=*/false);
  }

 private:
  struct Entry {
    std::string name;
    Score score;
  };

  std::vector<Entry> entries_;
  std::vector<detail::Share> shares_;  ///< of the entries, in their order
  bool may_abstain_ = false;           ///< one of them
};

}  // namespace contraflow
