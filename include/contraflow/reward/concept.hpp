#pragma once

/// @file
/// The concept Reward.

#include <concepts>
#include <string>
#include <type_traits>
#include <vector>

#include <contraflow/core/condition.hpp>

namespace contraflow {

namespace detail {
/// What a reward may return: a tensor [B] or a vector of B numbers.
template <class T>
concept ScoresLike = std::convertible_to<T, Tensor> ||
    std::convertible_to<T, std::vector<double>> || std::convertible_to<T, std::vector<float>>;

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
/// doubles. Where both expressions are valid, the second is used. A sample that cannot be scored
/// gets NaN. Laws: a sample's score depends on the sample and its reference alone. Called from
/// another thread when scoring is asynchronous.
/// @tparam Reference what the prompts tell rewards
template <class R, class Reference = Unconditional>
concept Reward = HasScores<R> || HasReferencedScores<R, Reference>;

namespace detail {
/// Whether some expression of a Reward can be called, whatever it returns.
template <class R, class Reference>
inline constexpr bool is_called_with = std::invocable<const R&, const Tensor&> ||
                                       std::invocable<const R&, const Tensor&, const Reference&>;
/// Says what is missing where a reward cannot be called under the reference that there is.
template <class R>
consteval bool explain_call() {
  constexpr bool wants_captions =
      std::invocable<const R&, const Tensor&, const std::vector<std::string>&>;
  static_assert(!wants_captions,
                "contraflow: this Reward takes captions, and the prompts give another reference: "
                "give the trainer `PromptRows(condition, captions)`; where the references are JSON "
                "records, OnCaptions(reward) finds the captions in them");
  static_assert(wants_captions,
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
                  "std::vector of B floats or doubles");
    return true;
  } else {
    return detail::explain_call<R>();
  }
}

namespace detail {

/// What a reward gives, as float64 on the CPU; undefined where it gives an undefined tensor.
template <class R, class Reference>
Tensor given_scores(const R& reward, const Tensor& x0, const Reference& reference) {
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
  if constexpr (std::convertible_to<decltype(called()), Tensor>) {
    const Tensor scores = called();
    return scores.defined() ? scores.detach().to(at::kCPU, at::kDouble) : scores;
  } else {
    const auto values = called();
    return at::tensor(std::vector<double>(values.begin(), values.end()), at::kDouble);
  }
}

/// Throws Error unless there is one score for each of @p samples samples.
inline void expects_scores(const Tensor& scores, std::int64_t samples, const std::string& reward) {
  if (scores.defined() && scores.dim() == 1 && scores.size(0) == samples) return;
  throw Error(reward, "one score a sample, shape [" + shown(samples) + "]", shape_text(scores));
}

}  // namespace detail

/// The scores of a reward as float64 [B] on the CPU.
/// @throws Error if there is not one score a sample
template <class R, class Reference>
Tensor scores_of(const R& reward, const Tensor& x0, const Reference& reference) {
  const Tensor scores = detail::given_scores(reward, x0, reference);
  detail::expects_scores(scores, x0.size(0), "reward");
  return scores;
}

}  // namespace contraflow
