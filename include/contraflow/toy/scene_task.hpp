#pragma once

/// @file
/// Scenes as a task: the catalogue of prompts, for training and for evaluation.

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>
#include <contraflow/toy/scene_prompts.hpp>
#include <contraflow/train/prompts.hpp>

namespace contraflow::toy::scenes {

/// All prompts, each with a number: its place in this list.
class Catalogue {
 public:
  Catalogue() : prompts_(all_prompts()), tokens_(tokens_of(prompts_)) {
    for (std::int64_t i = 0; i < size(); ++i) {
      of_category_[std::size_t(prompts_[std::size_t(i)].category)].push_back(i);
    }
  }

  /// The prompts, category by category.
  const std::vector<Prompt>& prompts() const { return prompts_; }
  /// Their number.
  std::int64_t size() const { return std::int64_t(prompts_.size()); }
  /// Their tokens, int64 [size, 8].
  const Tensor& all_tokens() const { return tokens_; }
  /// Numbers of the prompts of a category.
  const std::vector<std::int64_t>& of(Category category) const {
    return of_category_[std::size_t(category)];
  }

 private:
  std::vector<Prompt> prompts_;
  Tensor tokens_;
  std::array<std::vector<std::int64_t>, categories.size()> of_category_;
};

/// The one catalogue.
inline const Catalogue& catalogue() {
  static const Catalogue all;
  return all;
}

/// Prompts for trainers and evaluations: models are given their tokens, rewards their numbers.
/// @param numbers int64 [P], in the catalogue, such as training_prompts()
/// @throws Error if there is none, or not such a prompt
inline PromptRows<Tensor, Tensor> prompts_of(const Tensor& numbers) {
  const Tensor readable = detail::readable_ids(numbers, catalogue().size());
  return {catalogue().all_tokens().index_select(0, readable), readable};
}

/// Tokens of the prompt that asks for nothing, int64 [1, 8]: the negative of guidance.
inline Tensor null_prompt() {
  Tensor row = at::full({1, tokens}, pad_token, at::kLong);
  row.select(1, 0).fill_(null_token);
  return row;
}

namespace detail {

/// Numbers of the prompts of a category that are kept out of training, or of the others.
inline std::vector<std::int64_t> part_of(Category category, bool kept_out) {
  const auto& all = catalogue().of(category);
  std::vector<std::int64_t> part;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (is_kept_out(category, std::int64_t(i)) == kept_out) part.push_back(all[i]);
  }
  return part;
}

}  // namespace detail

/// The prompts that reinforcement learning trains on, each category as often as the others: those
/// that are not kept out, repeated.
/// @return int64 [1728], numbers in the catalogue
inline Tensor training_prompts() {
  std::size_t most = 0;
  for (const Category category : categories) {
    most = std::max(most, detail::part_of(category, false).size());
  }
  std::vector<std::int64_t> numbers;
  for (const Category category : categories) {
    const auto part = detail::part_of(category, false);
    for (std::size_t i = 0; i < most; ++i) numbers.push_back(part[i % part.size()]);
  }
  return at::tensor(numbers, at::kLong);
}

/// The prompts of evaluation: for position and attribute those kept out, for the other categories
/// all, in turn, each category as often as the others.
/// @param per_category number of prompts of each category, at least 1
/// @return int64 [6 per_category], numbers in the catalogue
inline Tensor evaluation_prompts(std::int64_t per_category = 100) {
  expects(per_category >= 1, "per_category", "at least 1", per_category);
  std::vector<std::int64_t> numbers;
  for (const Category category : categories) {
    const auto kept_out = detail::part_of(category, true);
    const auto& list = kept_out.empty() ? catalogue().of(category) : kept_out;
    for (std::int64_t i = 0; i < per_category; ++i) {
      numbers.push_back(list[std::size_t(i) % list.size()]);
    }
  }
  return at::tensor(numbers, at::kLong);
}

}  // namespace contraflow::toy::scenes
