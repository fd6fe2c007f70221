#pragma once

/// @file
/// Scenes as a task: lists of prompts, the pre-training set, rewards, diversity.

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>
#include <contraflow/toy/scenes.hpp>
#include <contraflow/train/pretrain.hpp>
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

namespace detail {
/// What the detector says of latents by the numbers of their prompts.
inline Judgements judged_by_number(const Tensor& x0, const Tensor& numbers) {
  if (!numbers.defined() || numbers.dim() != 1 || numbers.size(0) != x0.size(0)) {
    throw Error("reference",
                "the number of each sample's prompt, shape [" + shown(x0.size(0)) +
                    "], as scenes::prompts_of() gives them",
                shape_text(numbers));
  }
  return judge(catalogue().prompts(), numbers, x0);
}
}  // namespace detail

/// The detector's strict score: 1 where everything that is asked for is there, else 0.
/// @par Shape
/// x0 [B, 8, 4, 4], numbers int64 [B], of the prompts in the catalogue; result float64 [B]
struct Strict {
  /// The scores.
  Tensor operator()(const Tensor& x0, const Tensor& numbers) const {
    return detail::judged_by_number(x0, numbers).strict;
  }
};

/// The detector's partial score, in [0, 1].
/// @par Shape
/// x0 [B, 8, 4, 4], numbers int64 [B], of the prompts in the catalogue; result float64 [B]
struct Partial {
  /// The scores.
  Tensor operator()(const Tensor& x0, const Tensor& numbers) const {
    return detail::judged_by_number(x0, numbers).partial;
  }
};

namespace detail {

/// Latents as the detector reads them.
inline Tensor readable(const Tensor& x0) {
  if (x0.dim() != 4 || x0.sizes().slice(1) != at::IntArrayRef({channels, side, side})) {
    throw Error("x0", "shape [B, 8, 4, 4]", shape_text(x0));
  }
  return x0.detach().to(at::kCPU, at::kFloat).contiguous();
}

/// A score a latent from what the detector sees in it.
template <class F>
Tensor scored_by_sight(const Tensor& x0, F&& score) {
  const Tensor values = readable(x0);
  Tensor result = at::empty({x0.size(0)}, at::kDouble);
  for (std::int64_t i = 0; i < x0.size(0); ++i) {
    const float* latent = data_of<const float>(values) + i * channels * cells;
    result.mutable_data_ptr<double>()[i] = score(seen(latent), latent);
  }
  return result;
}

}  // namespace detail

/// Share of the objects that lie in the four cells off the border; 0 where there are none.
/// @par Shape
/// x0 [B, 8, 4, 4]; result float64 [B]
/// @throws Error if the shape does not fit
struct OffBorder {
  /// The scores.
  Tensor operator()(const Tensor& x0) const {
    return detail::scored_by_sight(x0, [](const Sight& sight, const float*) {
      double inside = 0;
      for (const Seen& object : sight.objects) {
        const std::int64_t row = object.cell / side, column = object.cell % side;
        const bool is_inside = std::min(row, column) > 0 && std::max(row, column) < side - 1;
        inside += is_inside ? 1 : 0;
      }
      return sight.objects.empty() ? 0.0 : inside / double(sight.objects.size());
    });
  }
};

/// Mean brightness of the objects' colours, from 0 (black) to 1 (white); 0 where there are none.
/// @par Shape
/// x0 [B, 8, 4, 4]; result float64 [B]
struct ColourBrightness {
  /// The scores.
  Tensor operator()(const Tensor& x0) const {
    return detail::scored_by_sight(x0, [](const Sight& sight, const float* latent) {
      double sum = 0;
      for (const Seen& object : sight.objects) {
        for (std::int64_t c = 0; c < 3; ++c) {
          sum += (std::clamp(latent[(5 + c) * cells + object.cell], -1.0F, 1.0F) + 1) / 6;
        }
      }
      return sight.objects.empty() ? 0.0 : sum / double(sight.objects.size());
    });
  }
};

/// Diversity: distinct scenes of a group, as a share of its samples; mean over groups.
///
/// Two scenes are one if the detector sees the same shapes in the same colours in the same cells.
/// @param x0 [N, 8, 4, 4]
/// @param group int64 [N], which samples answer one prompt
/// @return in (0, 1]
/// @throws Error if a shape does not fit
inline double distinct_share(const Tensor& x0, const Tensor& group) {
  const Tensor values = detail::readable(x0);
  expects_per_sample(group, x0, "group");
  const Tensor ids = group.to(at::kCPU, at::kLong).contiguous();
  using Scene = std::vector<std::array<std::int64_t, 3>>;
  std::map<std::int64_t, std::pair<std::set<Scene>, double>> groups;
  for (std::int64_t i = 0; i < x0.size(0); ++i) {
    Scene scene;
    for (const Seen& object : seen(data_of<const float>(values) + i * channels * cells).objects) {
      scene.push_back({object.cell, object.shape, object.colour});
    }
    auto& [scenes, samples] = groups[data_of<const std::int64_t>(ids)[i]];
    scenes.insert(std::move(scene));
    samples += 1;
  }
  double sum = 0;
  for (const auto& [id, of_group] : groups) sum += double(of_group.first.size()) / of_group.second;
  return sum / double(groups.size());
}

}  // namespace contraflow::toy::scenes
