#pragma once

/// @file
/// The concept Reward.

#include <concepts>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <contraflow/core/condition.hpp>

namespace contraflow {

/// Scores of a reward that abstains from some samples: it has no opinion on them, since it does not
/// apply to them, and the other rewards of its bag count. A score of NaN is no abstention but a
/// failure.
/// @par Shape
/// scores [B], abstains bool [B]
struct PartialScores {
  Tensor scores;    ///< where the reward abstains any number
  Tensor abstains;  ///< from which samples; undefined: from none
};

namespace detail {
/// What a reward that abstains may return: PartialScores, or a vector of B numbers or nothing.
template <class T>
concept PartialScoresLike = std::convertible_to<T, PartialScores> ||
    std::convertible_to<T, std::vector<std::optional<double>>>;
/// What a reward may return: a tensor [B] or a vector of B numbers, or what says where it abstains.
template <class T>
concept ScoresLike =
    std::convertible_to<T, Tensor> || std::convertible_to<T, std::vector<double>> ||
    std::convertible_to<T, std::vector<float>> || PartialScoresLike<T>;

template <class R>
using PlainResult = std::invoke_result_t<const R&, const Tensor&>;
template <class R, class Reference>
using ReferencedResult = std::invoke_result_t<const R&, const Tensor&, const Reference&>;
}  // namespace detail

/// `r(x0)` gives a score a sample.
template <class R>
concept HasScores =
    std::invocable<const R&, const Tensor&> && detail::ScoresLike<detail::PlainResult<R>>;

/// `r(x0, reference)` gives a score a sample.
template <class R, class Reference>
concept HasReferencedScores = std::invocable<const R&, const Tensor&, const Reference&> &&
    detail::ScoresLike<detail::ReferencedResult<R, Reference>>;

/// A black box that scores clean samples; higher is better.
///
/// Valid expressions: `r(x0)` or `r(x0, reference)`, with x0 [B, ...] without gradient and what the
/// PromptSource tells rewards of the B prompts: captions (`std::vector<std::string>`), JSON records
/// (`std::vector<nlohmann::json>`), a tensor [B, ...] of scenes or numbers, any type that it gives;
/// the condition where it gives nothing else. The result is a tensor [B] or a vector of B floats or
/// doubles; of a reward that abstains from samples PartialScores, or a vector of B
/// `std::optional<double>`. Where both expressions are valid, the second is used. A sample that
/// cannot be scored gets NaN. Laws: a sample's score, or that the reward abstains from it, depends
/// on the sample and its reference alone. Called from another thread when scoring is asynchronous.
/// @tparam Reference what the prompts tell rewards
template <class R, class Reference = Unconditional>
concept Reward = HasScores<R> || HasReferencedScores<R, Reference>;

namespace detail {
/// Whether some expression of a Reward can be called, whatever it returns.
template <class R, class Reference>
inline constexpr bool is_called_with = std::invocable<const R&, const Tensor&> ||
                                       std::invocable<const R&, const Tensor&, const Reference&>;
/// Whether a type sees whole groups, by whatever reference.
template <class R>
concept IsOfGroups = requires(const R& reward, const Tensor& x0) {
  reward.of_group(x0);
}
|| requires(const R& reward, const Tensor& x0, const std::vector<std::string>& captions) {
  reward.of_group(x0, captions);
};
/// Says what is missing where a reward cannot be called under the reference that there is.
template <class R>
consteval bool explain_call() {
  static_assert(!IsOfGroups<R>,
                "contraflow: a reward that sees whole groups stands in a bag made by rewards(...), "
                "and is callable as `of_group(x0)` or as `of_group(x0, reference)` with the "
                "reference that the prompts give");
  if constexpr (IsOfGroups<R>) return true;
  constexpr bool wants_captions =
      std::invocable<const R&, const Tensor&, const std::vector<std::string>&>;
  static_assert(!wants_captions,
                "contraflow: this Reward takes captions, and the prompts give another reference: "
                "give the trainer `PromptRows(condition, captions)`; where the references are JSON "
                "records, OnCaptions(reward) finds the captions in them");
  static_assert(wants_captions || IsOfGroups<R>,
                "contraflow: a Reward must be callable as `reward(x0)` or as `reward(x0, "
                "reference)`, and const, with the reference that the prompts give: by default "
                "their condition. One that takes labels or captions needs prompts: give the "
                "trainer some, such as class_prompts, or PromptRows(condition, references)");
  return true;
}
}  // namespace detail

/// Says in a sentence why @p R is not a Reward under the reference @p Reference.
template <class R, class Reference = Unconditional>
consteval bool explain_reward() {
  if constexpr (detail::is_called_with<R, Reference>) {
    static_assert(Reward<R, Reference>,
                  "contraflow: a Reward must return one score a sample: a torch::Tensor [B] or a "
                  "std::vector of B floats or doubles; where it abstains from samples, "
                  "PartialScores or a std::vector of B std::optional<double>");
    return true;
  } else {
    return detail::explain_call<R>();
  }
}

namespace detail {

/// Whether a reward returns what can say that it abstains.
template <class R, class Reference>
consteval bool may_abstain() {
  if constexpr (HasReferencedScores<R, Reference>) {
    return PartialScoresLike<ReferencedResult<R, Reference>>;
  } else if constexpr (HasScores<R>) {
    return PartialScoresLike<PlainResult<R>>;
  } else {
    return false;
  }
}

/// Scores as float64 on the CPU; what is undefined or complex stays as it is, to be refused.
inline PartialScores host_scores(const PartialScores& given) {
  PartialScores host = given;
  if (host.scores.defined() && !host.scores.is_complex()) {
    host.scores = host.scores.detach().to(at::kCPU, at::kDouble);
  }
  if (host.abstains.defined()) host.abstains = host.abstains.to(at::kCPU);
  return host;
}
/// Scores with nothing where the reward abstains.
inline PartialScores host_scores(const std::vector<std::optional<double>>& given) {
  const auto size = static_cast<std::int64_t>(given.size());
  PartialScores host{at::zeros({size}, at::kDouble), at::zeros({size}, at::kBool)};
  for (std::int64_t i = 0; i < size; ++i) {
    const std::optional<double>& score = given[static_cast<std::size_t>(i)];
    host.abstains[i] = !score.has_value();
    host.scores[i] = score.value_or(0);
  }
  return host;
}

/// What a reward gives, as float64 on the CPU; undefined where it gives an undefined tensor.
template <class R, class Reference>
PartialScores given_scores(const R& reward, const Tensor& x0, const Reference& reference) {
  static_assert(explain_reward<R, Reference>());
  const auto called = [&]() -> decltype(auto) {
    if constexpr (HasReferencedScores<R, Reference>) {
      return reward(x0, reference);
    } else if constexpr (HasScores<R>) {
      return reward(x0);
    } else {
      return Tensor();  // the sentence above says enough
    }
  };
  using Result = decltype(called());
  if constexpr (std::convertible_to<Result, Tensor>) {
    return host_scores(PartialScores{called(), {}});
  } else if constexpr (PartialScoresLike<Result>) {
    return host_scores(called());
  } else {
    const auto values = called();
    return {at::tensor(std::vector<double>(values.begin(), values.end()), at::kDouble), {}};
  }
}

/// Throws Error unless there is one score for each of @p samples samples.
inline void expects_scores(const PartialScores& given, std::int64_t samples,
                           const std::string& reward) {
  const auto& [scores, abstains] = given;
  const std::string shape = "shape [" + shown(samples) + "]";
  if (!scores.defined() || scores.dim() != 1 || scores.size(0) != samples) {
    throw Error(reward, "one score a sample, " + shape, shape_text(scores));
  }
  if (scores.is_complex()) throw Error(reward, "real scores", shown(scores.scalar_type()));
  if (!abstains.defined()) return;
  if (abstains.scalar_type() != at::kBool || abstains.sizes() != scores.sizes()) {
    throw Error(reward, "where it abstains as bool, " + shape,
                shown(abstains.scalar_type()) + " " + shape_text(abstains));
  }
}

/// Scores with NaN where the reward abstains.
inline Tensor without_abstentions(const PartialScores& given) {
  if (!given.abstains.defined()) return given.scores;
  return given.scores.masked_fill(given.abstains, std::numeric_limits<double>::quiet_NaN());
}

}  // namespace detail

/// The scores of a reward as float64 [B] on the CPU; NaN where it abstains.
/// @throws Error if there is not one score a sample
template <class R, class Reference>
Tensor scores_of(const R& reward, const Tensor& x0, const Reference& reference) {
  const PartialScores given = detail::given_scores(reward, x0, reference);
  detail::expects_scores(given, x0.size(0), "reward");
  return detail::without_abstentions(given);
}

}  // namespace contraflow
