#pragma once

/// @file
/// What text-conditional transformers are conditioned on.

#include <contraflow/core/condition.hpp>

namespace contraflow {

/// Encoded prompts, as a joint-attention transformer takes them.
/// @par Shape
/// sequence [B, L, D]; pooled [B, P]; prompt int64 [B], or undefined
struct TextCondition {
  Tensor sequence;     ///< a vector a token
  Tensor pooled;       ///< a vector a prompt
  Tensor prompt = {};  ///< which prompt each row is, for rewards that read it; may be undefined
};

/// Number of prompts.
inline std::int64_t batch_size(const TextCondition& condition) {
  return condition.sequence.size(0);
}
namespace detail {
template <class F>
TextCondition mapped(const TextCondition& condition, F&& f) {
  return {f(condition.sequence), f(condition.pooled),
          condition.prompt.defined() ? f(condition.prompt) : Tensor()};
}
}  // namespace detail
/// The rows @p ids, int64 [K].
inline TextCondition select(const TextCondition& condition, const Tensor& ids) {
  return detail::mapped(condition, [&](const Tensor& x) { return select(x, ids); });
}
/// Each row @p times times in a row.
inline TextCondition repeat(const TextCondition& condition, std::int64_t times) {
  return detail::mapped(condition, [&](const Tensor& x) { return repeat(x, times); });
}
/// The rows of both; without numbers of prompts where one of them has none.
inline TextCondition concatenate(const TextCondition& first, const TextCondition& second) {
  const bool numbered = first.prompt.defined() && second.prompt.defined();
  return {concatenate(first.sequence, second.sequence), concatenate(first.pooled, second.pooled),
          numbered ? concatenate(first.prompt, second.prompt) : Tensor()};
}

}  // namespace contraflow
