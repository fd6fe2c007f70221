#pragma once

/// @file
/// The concept Reward.

#include <concepts>
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

/// `r(x0, condition)` gives a score a sample.
template <class R, class C>
concept HasConditionedScores = std::invocable<const R&, const Tensor&, const C&> &&
    detail::ScoresLike<detail::ConditionedResult<R, C>>;

/// A black box that scores clean samples; higher is better.
///
/// Valid expressions: `r(x0)` or `r(x0, condition)`, with x0 [B, ...] without gradient, giving a
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
                "condition)`, and const");
  static_assert(!callable || Reward<R, C>,
                "contraflow: a Reward must return one score a sample: a torch::Tensor [B] or a "
                "std::vector of B floats or doubles");
  return true;
}

/// The scores of a reward as float64 [B] on the CPU.
/// @throws Error if there is not one score a sample
template <class R, class C>
Tensor scores_of(const R& reward, const Tensor& x0, const C& condition) {
  static_assert(explain_reward<R, C>());
  const auto called = [&]() -> decltype(auto) {
    if constexpr (HasConditionedScores<R, C>) {
      return reward(x0, condition);
    } else {
      return reward(x0);
    }
  };
  Tensor scores;
  using Result = std::remove_cvref_t<decltype(called())>;
  if constexpr (std::convertible_to<Result, Tensor>) {
    scores = called();
  } else {
    const auto values = called();
    scores = at::empty({static_cast<std::int64_t>(values.size())}, at::kDouble);
    std::copy(values.begin(), values.end(), scores.data_ptr<double>());
  }
  if (!scores.defined() || scores.dim() != 1 || scores.size(0) != x0.size(0)) {
    throw Error("reward", "one score a sample, shape [" + shown(x0.size(0)) + "]",
                shape_text(scores));
  }
  return scores.detach().to(at::kCPU, at::kDouble);
}

}  // namespace contraflow
