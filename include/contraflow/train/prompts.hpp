#pragma once

/// @file
/// The concept PromptSource, and its models.

#include <concepts>
#include <cstdint>
#include <utility>
#include <vector>

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

/// `p.reference(ids)`: what rewards are told of the prompts ids, int64 [B]: captions, scenes, JSON
/// records.
template <class P>
concept HasPromptReference = requires(const P& p, const Tensor& ids) {
  p.reference(ids);
};

/// `p.prepare(ids)`: told which prompts are asked for next, int64 [B], where doing something for
/// all of them together costs less, such as encoding them.
template <class P>
concept HasPromptPreparation = requires(const P& p, const Tensor& ids) {
  p.prepare(ids);
};

/// A finite list of prompts, which give two things: the condition of models, and a reference for
/// rewards. The rollout keeps their numbers only and asks when a batch needs them.
///
/// Valid expressions: those of HasPromptCount and HasPromptCondition; that of HasPromptReference
/// where rewards are told anything else than the condition; that of HasPromptPreparation where
/// it helps, which changes no result. Laws: `size() >= 1`; `condition(ids)`
/// and `reference(ids)` have one row an id; equal ids give equal rows.
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

/// What rewards are told of the prompts @p ids: their reference, or their condition.
/// @throws Error if it can be counted and does not have one entry an id
template <PromptSource P>
auto reference_of(const P& prompts, const Tensor& ids) {
  if constexpr (HasPromptReference<P>) {
    auto reference = prompts.reference(ids);
    if constexpr (Condition<decltype(reference)>) {
      const std::int64_t count = batch_size(reference);
      const bool fits = count == ids.numel() || count == -1;
      if (!fits)
        throw Error("reference(ids)", "one entry an id, " + shown(ids.numel()), shown(count));
    }
    return reference;
  } else {
    return prompts.condition(ids);
  }
}

/// Tells prompts that want to know which of them, @p ids, come next.
template <PromptSource P>
void prepare_prompts(const P& prompts, const Tensor& ids) {
  if constexpr (HasPromptPreparation<P>) prompts.prepare(ids);
}

/// What the prompts of @p P give to models.
template <class P>
using ConditionOf = decltype(std::declval<const P&>().condition(std::declval<const Tensor&>()));
/// What the prompts of @p P give to rewards.
template <class P>
using ReferenceOf = decltype(reference_of(std::declval<const P&>(), std::declval<const Tensor&>()));

/// No prompts: one prompt that says nothing, for unconditional models.
struct NoPrompts {
  /// One.
  std::int64_t size() const { return 1; }
  /// Nothing.
  Unconditional condition(const Tensor&) const { return {}; }
};

namespace detail {
/// Stands for a reference that is the condition.
struct SameAsCondition {};
}  // namespace detail

/// Prompts that are the rows of a condition: embeddings, class labels, or a user's Condition; with
/// a reference a prompt for rewards, where they need something else: `PromptRows(encoded,
/// captions)`.
/// @tparam C a Condition
/// @tparam R likewise: a std::vector with an entry a prompt, such as of captions or JSON records, a
/// tensor with a row a prompt, or a Condition of the user's
template <Condition C = Tensor, class R = detail::SameAsCondition>
class PromptRows {
 public:
  /// @param rows one row a prompt, at least one
  explicit PromptRows(C rows) : PromptRows(std::move(rows), R{}) {}
  /// @param rows one row a prompt, at least one
  /// @param references as many
  /// @throws Error if there are none, or not as many references
  PromptRows(C rows, R references) : rows_(std::move(rows)), references_(std::move(references)) {
    expects(batch_size(rows_) >= 1, "rows", "at least one prompt", batch_size(rows_));
    if constexpr (has_references) {
      const std::int64_t count = batch_size(references_);
      expects(count == size(), "references", "as many as rows", count);
    }
  }

  /// Number of rows.
  std::int64_t size() const { return batch_size(rows_); }
  /// The rows @p ids, int64 [B].
  C condition(const Tensor& ids) const { return select(rows_, ids); }
  /// The references @p ids, int64 [B].
  R reference(const Tensor& ids) const requires(!std::same_as<R, detail::SameAsCondition>) {
    return select(references_, ids);
  }

 private:
  static constexpr bool has_references = !std::same_as<R, detail::SameAsCondition>;
  C rows_;
  [[no_unique_address]] R references_;
};
/// Rows whose reference is the condition.
template <class C>
PromptRows(C) -> PromptRows<C>;
/// Rows with references.
template <class C, class R>
PromptRows(C, R) -> PromptRows<C, R>;

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
