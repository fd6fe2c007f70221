#pragma once

/// @file
/// The pre-training set of scenes, and captions that are spoilt.

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>
#include <contraflow/toy/scene_drawing.hpp>
#include <contraflow/toy/scene_task.hpp>
#include <contraflow/train/pretrain.hpp>

namespace contraflow::toy::scenes {

/// Scenes with their prompts.
/// @par Shape
/// latents float32 [N, 8, 4, 4], captions int64 [N, 8], numbers int64 [N]
struct Captioned {
  Tensor latents;       ///< the scenes
  Tensor captions;      ///< tokens of the prompts that they answer
  Tensor numbers = {};  ///< of these prompts in the catalogue
};

/// The pre-training set, categories in equal number.
/// @param list categories that are in it
/// @param per_category scenes of each; 4000 of all six are the 24,000 of the task
/// @param generator a draw a category, and one for the scenes
inline Captioned draw_captioned(const std::vector<Category>& list, std::int64_t per_category,
                                Generator& generator) {
  std::vector<Tensor> numbers;
  for (const Category category : list) {
    const auto& all = catalogue().of(category);
    const Tensor chosen = integers(std::int64_t(all.size()), per_category, generator);
    numbers.push_back(at::tensor(all, at::kLong).index_select(0, chosen));
  }
  const Tensor ids = at::cat(numbers);
  return {draw(catalogue().prompts(), ids, generator),
          catalogue().all_tokens().index_select(0, ids), ids};
}

namespace detail {

/// First token and number of tokens of the kind of a content word; no tokens for other words.
inline std::pair<std::int64_t, std::int64_t> kind_of(std::int64_t token) {
  constexpr std::array<std::pair<std::int64_t, std::int64_t>, 4> kinds{
      {{shape_token, shape_count},
       {colour_token, colour_count},
       {number_token, most_objects},
       {relation_token, 4}}};
  for (const auto& kind : kinds) {
    if (token >= kind.first && token < kind.first + kind.second) return kind;
  }
  return {token, 0};
}

}  // namespace detail

/// How captions are spoilt for pre-training.
struct Spoiling {
  double word = 0;      ///< probability that a content word becomes a random one of its kind
  double prompt = 0.1;  ///< probability that nothing is asked for, so that guidance is learnt
};

/// Spoils captions.
/// @param captions int64 [B, 8]
/// @param spoiling probabilities
/// @param generator one draw is made; a row a caption
/// @return int64 [B, 8]
inline Tensor spoilt(const Tensor& captions, const Spoiling& spoiling, Generator& generator) {
  const std::int64_t count = captions.size(0);
  const Tensor numbers = uniform({count, 2 * tokens + 1}, generator);
  Tensor result = captions.clone(at::MemoryFormat::Contiguous);
  const auto* number = data_of<const float>(numbers);
  auto* word = result.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i, number += 2 * tokens + 1, word += tokens) {
    for (std::int64_t k = 0; k < tokens; ++k) {
      const auto [first, size] = detail::kind_of(word[k]);
      if (size == 0 || number[k] >= spoiling.word) continue;
      word[k] = first + detail::drawn(number[tokens + k], size);
    }
    if (number[2 * tokens] >= spoiling.prompt) continue;
    std::fill(word, word + tokens, pad_token);
    word[0] = null_token;
  }
  return result;
}

/// Batches of captioned scenes for pretrain().
class CaptionedData {
 public:
  /// @param set from which batches are drawn
  /// @param spoiling of the captions
  explicit CaptionedData(Captioned set, Spoiling spoiling = {})
      : set_(std::move(set)), spoiling_(spoiling) {}

  /// @p count scenes with their spoilt captions.
  ConditionedData<Tensor> operator()(std::int64_t count, Generator& generator) const {
    const Tensor chosen = integers(set_.latents.size(0), count, generator);
    return {set_.latents.index_select(0, chosen),
            spoilt(set_.captions.index_select(0, chosen), spoiling_, generator)};
  }

 private:
  Captioned set_;
  Spoiling spoiling_;
};

}  // namespace contraflow::toy::scenes
