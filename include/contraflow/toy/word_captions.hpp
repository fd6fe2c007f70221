#pragma once

/// @file
/// What the model of words learns from: words and strings of letters, with captions that may be
/// spoilt.

#include <cstdint>
#include <utility>

#include <contraflow/toy/word_drawing.hpp>
#include <contraflow/train/pretrain.hpp>

namespace contraflow::toy::words {

namespace detail {
/// Which rows are words that are kept out, bool [N].
inline Tensor are_kept_out(const Tensor& tokens) {
  const Tensor kept_out = tokens_of(texts_of(kept_out_words()));
  return (tokens.unsqueeze(1) == kept_out).all(2).any(1);
}
}  // namespace detail

/// Texts of the pre-training set: words that are trained on and as many strings of three to five
/// random letters. Strings have every letter at every place, so that it is letters that are learnt.
/// No word that is kept out is among them.
/// @param count of each
/// @param generator two draws are made, and one of words
/// @return tokens int64 [2 count, 5]
inline Tensor pretraining_texts(std::int64_t count, Generator& generator) {
  const Tensor words = training_words();
  const Tensor real =
      tokens_of(texts_of(words)).index_select(0, integers(words.numel(), count, generator));
  const Tensor lengths =
      integers(most_letters - fewest_letters + 1, count, generator) + fewest_letters;
  const Tensor letters =
      integers(alphabet, count * most_letters, generator).view({count, most_letters}) + first_token;
  const Tensor is_inside = at::arange(most_letters) < lengths.unsqueeze(1);
  const Tensor random = at::where(is_inside, letters, at::full_like(letters, pad_token));
  return at::cat({real, at::where(detail::are_kept_out(random).unsqueeze(1), real, random)});
}

/// How captions are spoilt for pre-training.
struct Spoiling {
  double letter = 0;    ///< probability that a letter becomes a random one
  double prompt = 0.1;  ///< probability that nothing is asked for, so that guidance is learnt
};

/// Spoils captions.
/// @param captions int64 [N, 5]
/// @param spoiling probabilities
/// @param generator one draw is made, a row a caption
/// @return int64 [N, 5]
inline Tensor spoilt(const Tensor& captions, const Spoiling& spoiling, Generator& generator) {
  const Tensor numbers = uniform({captions.size(0), 2 * most_letters + 1}, generator);
  const Tensor letters = detail::scaled(numbers.narrow(1, most_letters, most_letters),
                                        at::full_like(captions, alphabet)) +
                         first_token;
  const Tensor is_spoilt =
      numbers.narrow(1, 0, most_letters).lt(spoiling.letter).logical_and(captions.ne(pad_token));
  const Tensor is_null = numbers.narrow(1, 2 * most_letters, 1).lt(spoiling.prompt);
  return at::where(is_null, null_prompt(), at::where(is_spoilt, letters, captions));
}

/// Batches of drawn words with their captions for pretrain().
class CaptionedWords {
 public:
  /// @param glyphs letters
  /// @param texts int64 [N, 5], from which batches are drawn
  /// @param layouts from which each image's is drawn anew
  /// @param spoiling of the captions
  CaptionedWords(Glyphs glyphs, Tensor texts, Layouts layouts = {}, Spoiling spoiling = {})
      : glyphs_(std::move(glyphs)),
        texts_(std::move(texts)),
        layouts_(layouts),
        spoiling_(spoiling) {}

  /// @p count images with their spoilt captions.
  ConditionedData<Tensor> operator()(std::int64_t count, Generator& generator) const {
    const Tensor texts = texts_.index_select(0, integers(texts_.size(0), count, generator));
    const Layout layout = random_layout(texts, layouts_, generator);
    return {drawn(glyphs_, texts, layout), spoilt(texts, spoiling_, generator)};
  }

 private:
  Glyphs glyphs_;
  Tensor texts_;
  Layouts layouts_;
  Spoiling spoiling_;
};

}  // namespace contraflow::toy::words
