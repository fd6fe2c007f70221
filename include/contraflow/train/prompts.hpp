#pragma once

/// @file
/// The concept PromptSource, and its models.

#include <concepts>
#include <utility>

#include <contraflow/core/condition.hpp>
#include <contraflow/core/random.hpp>

namespace contraflow {

/// `p.size()`: number of prompts.
template <class P>
concept HasPromptCount = requires(const P& p) {
  { p.size() } -> std::convertible_to<std::int64_t>;
};

/// `p.condition(ids)`: the condition of the prompts ids, int64 [B].
template <class P>
concept HasPromptCondition = requires(const P& p, const Tensor& ids) {
  { p.condition(ids) } -> Condition;
};

/// A finite list of prompts. The rollout keeps their numbers only and asks for conditions when a
/// batch needs them.
///
/// Valid expressions: those of HasPromptCount and HasPromptCondition. Laws: `size() >= 1`;
/// `condition(ids)` has one row an id; equal ids give equal rows.
template <class P>
concept PromptSource = HasPromptCount<P> && HasPromptCondition<P>;

/// Says in a sentence why @p P is not a PromptSource.
template <class P>
consteval bool explain_prompt_source() {
  static_assert(HasPromptCount<P>,
                "contraflow: a PromptSource must have `std::int64_t size() const`, its number of "
                "prompts");
  static_assert(HasPromptCondition<P>,
                "contraflow: a PromptSource must have `condition(ids) const` for ids int64 [B], "
                "giving a Condition: a tensor [B, ...] or a type with batch_size, select, "
                "concatenate and repeat");
  return true;
}

/// No prompts: one prompt that says nothing, for unconditional models.
struct NoPrompts {
  /// One.
  std::int64_t size() const { return 1; }
  /// Nothing.
  Unconditional condition(const Tensor&) const { return {}; }
};

/// Prompts that are the rows of a condition: embeddings, class labels, or a user's Condition.
template <Condition C = Tensor>
class PromptRows {
 public:
  /// @param rows one row a prompt, at least one
  explicit PromptRows(C rows) : rows_(std::move(rows)) {
    expects(batch_size(rows_) >= 1, "rows", "at least one prompt", batch_size(rows_));
  }
  /// Number of rows.
  std::int64_t size() const { return batch_size(rows_); }
  /// The rows @p ids, int64 [B].
  C condition(const Tensor& ids) const { return select(rows_, ids); }

 private:
  C rows_;
};

/// Class labels 0 ... @p classes - 1 as prompts.
inline PromptRows<Tensor> class_prompts(std::int64_t classes) {
  return PromptRows<Tensor>(at::arange(classes, at::kLong));
}

/// @p count prompts out of @p size, each as often as the others or once more, in random order.
/// @param size number of prompts, at least 1
/// @param count how many to draw
/// @param generator advanced by a permutation of all prompts for each round
/// @return int64 [count]
inline Tensor draw_prompts(std::int64_t size, std::int64_t count, Generator& generator) {
  std::vector<Tensor> rounds;
  for (std::int64_t drawn = 0; drawn < count; drawn += size) {
    rounds.push_back(permutation(size, generator));
  }
  return at::cat(rounds).narrow(0, 0, count);
}

}  // namespace contraflow
