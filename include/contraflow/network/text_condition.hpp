#pragma once

/// @file
/// What text-conditional transformers are conditioned on.

#include <contraflow/core/condition.hpp>

namespace contraflow {

/// Encoded prompts, as a joint-attention transformer takes them.
/// @par Shape
/// sequence [B, L, D]; pooled [B, P]
struct TextCondition {
  Tensor sequence;  ///< a vector a token
  Tensor pooled;    ///< a vector a prompt
};

/// Number of prompts.
inline std::int64_t batch_size(const TextCondition& condition) {
  return condition.sequence.size(0);
}
/// The rows @p ids, int64 [K].
inline TextCondition select(const TextCondition& condition, const Tensor& ids) {
  return {select(condition.sequence, ids), select(condition.pooled, ids)};
}
/// Each row @p times times in a row.
inline TextCondition repeat(const TextCondition& condition, std::int64_t times) {
  return {repeat(condition.sequence, times), repeat(condition.pooled, times)};
}
/// The rows of both.
inline TextCondition concatenate(const TextCondition& first, const TextCondition& second) {
  return {concatenate(first.sequence, second.sequence), concatenate(first.pooled, second.pooled)};
}

}  // namespace contraflow
