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
template <class R, class C>
using ConditionedResult = std::invoke_result_t<const R&, const Tensor&, const C&>;
}  // namespace detail

/// `r(x0)` gives a score a sample.
template <class R>
concept HasScores =
    std::invocable<const R&, const Tensor&> && detail::ScoresLike<detail::PlainResult<R>>;

/// `r(x0, reference)` gives a score a sample.
template <class R, class C>
concept HasConditionedScores = std::invocable<const R&, const Tensor&, const C&> &&
    detail::ScoresLike<detail::ConditionedResult<R, C>>;

/// A black box that scores clean samples; higher is better.
///
/// Valid expressions: `r(x0)` or `r(x0, reference)`, with x0 [B, ...] without gradient and the
/// reference of the prompts (a caption, a scene, a JSON record; by default the condition), giving a
/// tensor [B] or a vector of B floats or doubles. A sample that cannot be scored gets NaN. Laws: a
/// sample's score does not depend on the others of its batch. Called from another thread when
/// scoring is asynchronous.
template <class R, class C = Unconditional>
concept Reward = HasScores<R> || HasConditionedScores<R, C>;

/// Says in a sentence why @p R is not a Reward under the condition @p C.
template <class R, class C = Unconditional>
consteval bool explain_reward() {
  constexpr bool callable =
      std::invocable<const R&, const Tensor&> || std::invocable<const R&, const Tensor&, const C&>;
  static_assert(callable,
                "contraflow: a Reward must be callable as `reward(x0)` or as `reward(x0, "
                "reference)`, and const; one that takes labels or captions needs prompts: give "
                "the trainer some, such as class_prompts");
  static_assert(!callable || Reward<R, C>,
                "contraflow: a Reward must return one score a sample: a torch::Tensor [B] or a "
                "std::vector of B floats or doubles");
  return true;
}

namespace detail {

/// What a reward gives, as float64 on the CPU; undefined where it gives an undefined tensor.
template <class R, class C>
Tensor given_scores(const R& reward, const Tensor& x0, const C& reference) {
  static_assert(explain_reward<R, C>());
  const auto called = [&]() -> decltype(auto) {
    if constexpr (HasConditionedScores<R, C>) {
      return reward(x0, reference);
    } else {
      return reward(x0);
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
template <class R, class C>
Tensor scores_of(const R& reward, const Tensor& x0, const C& reference) {
  const Tensor scores = detail::given_scores(reward, x0, reference);
  detail::expects_scores(scores, x0.size(0), "reward");
  return scores;
}

}  // namespace contraflow
