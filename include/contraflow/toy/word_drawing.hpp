#pragma once

/// @file
/// Images of words, drawn with letters of a file.

#include <algorithm>
#include <cstdint>
#include <filesystem>

#include <contraflow/core/random.hpp>
#include <contraflow/io/safetensors.hpp>
#include <contraflow/toy/word_list.hpp>

namespace contraflow::toy::words {

inline constexpr std::int64_t height = 16;        ///< pixels of an image
inline constexpr std::int64_t width = 48;         ///< pixels of an image
inline constexpr std::int64_t glyph_height = 12;  ///< pixels of a letter's cell
inline constexpr std::int64_t glyph_width = 9;    ///< pixels of a letter's cell, also its pitch
inline constexpr std::int64_t first_top = 1;      ///< highest row where a word begins
inline constexpr std::int64_t tops = 3;           ///< rows where words begin

/// Letters to draw with.
struct Glyphs {
  Tensor ink;  ///< float32 [F, 26, 12, 9] in [0, 1]: A to Z in F fonts

  /// F.
  std::int64_t fonts() const { return ink.size(0); }
};

/// Reads letters; `scripts/prepare_glyphs` makes such a file.
/// @param path a safetensors file with `glyphs` uint8 [F, 26, 12, 9], ink from 0 to 255
/// @throws Error naming the file, for one that cannot be read or holds anything else
inline Glyphs read_glyphs(const std::filesystem::path& path) {
  const SafetensorsFile file = read_safetensors(path);
  const auto found = file.tensors.find("glyphs");
  if (found == file.tensors.end()) throw Error(path.string(), "a tensor \"glyphs\"", "none");
  const Tensor& glyphs = found->second;
  const bool fits =
      glyphs.scalar_type() == at::kByte && glyphs.dim() == 4 && glyphs.size(0) >= 1 &&
      glyphs.sizes().slice(1) == at::IntArrayRef({alphabet, glyph_height, glyph_width});
  if (!fits) throw Error(path.string(), "glyphs uint8 [F, 26, 12, 9]", shape_text(glyphs));
  return {glyphs.to(at::kFloat).div(255)};
}

/// How words lie in their images.
/// @par Shape
/// int64 [N] each
struct Layout {
  Tensor font;  ///< in [0, F)
  Tensor left;  ///< column where the first letter's cell begins
  Tensor top;   ///< row where the letters' cells begin, in [1, 4)
};

/// What layouts are drawn from.
struct Layouts {
  std::int64_t fonts = 4;  ///< the first so many
  bool anywhere = true;    ///< or in the middle of the image
};

namespace detail {
/// Letters of each word, int64 [N].
inline Tensor lengths_of(const Tensor& tokens) { return tokens.ne(pad_token).sum(1); }

/// An integer in [0, limit) for each uniform number.
inline Tensor scaled(const Tensor& uniform, const Tensor& limit) {
  return at::minimum((uniform * limit).to(at::kLong), limit - 1);
}
}  // namespace detail

/// Random layouts.
/// @param tokens int64 [N, 5], see tokens_of()
/// @param layouts what they are drawn from
/// @param generator one draw is made, a row a word
inline Layout random_layout(const Tensor& tokens, const Layouts& layouts, Generator& generator) {
  const Tensor numbers = uniform({tokens.size(0), 3}, generator);
  const Tensor room = width - glyph_width * detail::lengths_of(tokens) + 1;
  const Tensor font = detail::scaled(numbers.select(1, 0), at::full_like(room, layouts.fonts));
  if (!layouts.anywhere)
    return {font, room.div(2, "floor"), at::full_like(room, first_top + tops / 2)};
  return {font, detail::scaled(numbers.select(1, 1), room),
          first_top + detail::scaled(numbers.select(1, 2), at::full_like(room, tops))};
}

/// Draws words: dark letters (-1) on light paper (1).
/// @param glyphs letters
/// @param tokens int64 [N, 5], see tokens_of()
/// @param layout of each word
/// @return float32 [N, 1, 16, 48]
inline Tensor drawn(const Glyphs& glyphs, const Tensor& tokens, const Layout& layout) {
  const std::int64_t count = tokens.size(0);
  Tensor images = at::ones({count, 1, height, width});
  const auto* token = data_of<const std::int64_t>(tokens);
  for (std::int64_t i = 0; i < count; ++i, token += most_letters) {
    const Tensor letters = glyphs.ink[layout.font[i].item<std::int64_t>()];
    const auto left = layout.left[i].item<std::int64_t>();
    Tensor band = images[i][0].narrow(0, layout.top[i].item<std::int64_t>(), glyph_height);
    for (std::int64_t k = 0; k < most_letters && token[k] != pad_token; ++k) {
      band.narrow(1, left + k * glyph_width, glyph_width).sub_(letters[token[k] - first_token], 2);
    }
  }
  return images;
}

/// Images as a person, a reader and a file want them, in [0, 1].
/// @param x0 [N, 1, 16, 48]
inline Tensor shown_images(const Tensor& x0) {
  return x0.detach().to(at::kFloat).add(1).div(2).clamp(0, 1);
}

}  // namespace contraflow::toy::words
