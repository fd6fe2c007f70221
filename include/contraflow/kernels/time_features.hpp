#pragma once

/// @file
/// Fourier features of time in float32 on the host.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <contraflow/core/pack.hpp>

namespace contraflow::kernels {

/// The most frequencies whose phases time_features() reduces without rounding.
inline constexpr std::int64_t most_frequencies = 12;

namespace detail {

struct SinCos {
  float sin, cos;
};

// Of u quarter turns, |u| < 2^22, to two units in the last place: the turn within half a quarter is
// exact, and Taylor's polynomials of it are.
inline SinCos of_quarter_turns(float u) {
  // Added to a float, this leaves its nearest integer in the lowest bits.
  constexpr float to_integer = 0x1.8p23f;
  const float shifted = u + to_integer;
  const float r = u - (shifted - to_integer), q = r * r;
  const float s =
      r * (1.57079632679f +
           q * (-0.645964097506f +
                q * (0.0796926262462f + q * (-0.00468175413532f + q * 0.000160441184787f))));
  const float c =
      1.0f + q * (-1.23370055014f +
                  q * (0.253669507901f + q * (-0.0208634807634f +
                                              q * (0.000919260274839f + q * -2.52020423731e-5f))));
  const auto quarter = with_bits_of<std::uint32_t>(shifted) & 3u;
  const bool is_odd = (quarter & 1u) != 0;
  const float sine = is_odd ? c : s, cosine = is_odd ? s : c;
  return {quarter >= 2 ? -sine : sine, quarter == 1 || quarter == 2 ? -cosine : cosine};
}

}  // namespace detail

/// `[x | sin(2^k pi/2 t) | cos(2^k pi/2 t)]` of each row, k from 0.
/// @param rows of all arrays
/// @param columns of x
/// @param frequencies from 1 to most_frequencies
/// @param x [rows, columns]
/// @param t [rows], in [-1000, 1000]
/// @param out [rows, columns + 2 frequencies]
inline void time_features(std::int64_t rows, std::int64_t columns, std::int64_t frequencies,
                          const float* x, const float* t, float* out) {
  const std::int64_t size = columns + 2 * frequencies;
  for (std::int64_t i = 0; i < rows; ++i, out += size) {
    std::copy_n(x + i * columns, columns, out);
    float* features = out + columns;
    // A step of a solver has one time for all of its rows.
    if (i > 0 && t[i] == t[i - 1]) {
      std::copy_n(features - size, 2 * frequencies, features);
      continue;
    }
    float turns = t[i];
    for (std::int64_t k = 0; k < frequencies; ++k, turns *= 2) {
      const detail::SinCos found = detail::of_quarter_turns(turns);
      features[k] = found.sin;
      features[frequencies + k] = found.cos;
    }
  }
}

}  // namespace contraflow::kernels
