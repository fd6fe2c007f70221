#pragma once

/// @file
/// A reader of words that knows nothing but the letters they are drawn with.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>
#include <contraflow/toy/word_drawing.hpp>

namespace contraflow::toy::words {

/// What was read in images by comparison with letters.
struct TemplateReading {
  std::vector<std::string> texts;  ///< of each image; empty where paper fits better than letters
  /// Root mean square over the pixels of what is not explained by these letters, float64 [N]: 0 for
  /// a drawn word, of values in [-1, 1].
  Tensor residual;
};

/// Reads words by the font, place and letters that explain an image best: the least squared
/// distance of the image to a drawn word, over all fonts, places and strings of three to five
/// letters, or to plain paper. What it is for is to judge what another reader has rewarded: it
/// reads what looks like the letters of the data and nothing else.
/// @par Shape
/// images [N, 1, 16, 48] in [-1, 1]
class TemplateReader {
 public:
  /// @param glyphs letters of the data
  explicit TemplateReader(const Glyphs& glyphs)
      : fonts_(glyphs.fonts()), letters_(glyphs.ink.flatten(2).flatten(0, 1).mul(2)) {}

  /// What the images say.
  /// @param x0 [N, 1, 16, 48]
  TemplateReading read(const Tensor& x0) const {
    // Paper is 0 and ink is 2, so that plain paper has no energy.
    const Tensor ink = 1 - x0.detach().to(at::kCPU, at::kFloat).clamp(-1, 1);
    TemplateReading reading{{}, at::empty({x0.size(0)}, at::kDouble)};
    for (std::int64_t i = 0; i < ink.size(0); ++i) {
      const Best best = best_of(ink[i][0]);
      reading.texts.push_back(best.text);
      const double left = ink[i].square().sum().item<double>() - best.gain;
      reading.residual[i] = std::sqrt(std::max(left, 0.0) / double(height * width));
    }
    return reading;
  }

 private:
  struct Best {
    double gain = 0;  ///< by how much letters explain more than paper does
    std::string text = {};
  };

  /// @param ink [16, 48]
  Best best_of(const Tensor& ink) const {
    // Windows at all places: [5, 40, 108].
    const Tensor windows =
        ink.unfold(0, glyph_height, 1).unfold(1, glyph_width, 1).flatten(2).contiguous();
    // |w|^2 - |w - g|^2 of each letter there: [5, 40, fonts, 26].
    const Tensor gains = (2 * at::matmul(windows, letters_.t()) - letters_.square().sum(1))
                             .unflatten(2, {fonts_, alphabet});
    const auto [most, letter] = gains.max(3);
    Best best;
    for (std::int64_t length = fewest_letters; length <= most_letters; ++length) {
      const std::int64_t places = width - length * glyph_width + 1;
      Tensor sum = most.narrow(1, 0, places).clone();
      for (std::int64_t k = 1; k < length; ++k) sum += most.narrow(1, k * glyph_width, places);
      const double gain = sum.max().item<double>();
      if (gain <= best.gain) continue;
      best = {gain, text_at(letter, sum.argmax().item<std::int64_t>(), places, length)};
    }
    return best;
  }

  /// @param at number of an element of sums [5, places, fonts]
  std::string text_at(const Tensor& letter, std::int64_t at, std::int64_t places,
                      std::int64_t length) const {
    const std::int64_t font = at % fonts_, left = at / fonts_ % places, top = at / fonts_ / places;
    std::string text;
    for (std::int64_t k = 0; k < length; ++k) {
      text += char('A' + letter[top][left + k * glyph_width][font].item<std::int64_t>());
    }
    return text;
  }

  std::int64_t fonts_;
  Tensor letters_;  ///< [26 fonts, 108], ink from 0 to 2
};

}  // namespace contraflow::toy::words
