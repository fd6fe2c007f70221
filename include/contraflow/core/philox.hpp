#pragma once

/// @file
/// The random number of a place: the block function and the arithmetic of one element, shared by
/// host and device. C++17, so that nvcc compiles it.
///
/// Philox4x32-10 (Salmon and others 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a
/// key of 64 bits and a counter of 128 into 128 random bits. Here the counter is a place:
///
/// | word | holds |
/// |---|---|
/// | 0 | block within the row: columns 4 b to 4 b + 3 are made of block b, one word each |
/// | 1 | number of the draw |
/// | 2, 3 | name of the row, the low half first |
///
/// Numbers are float32 made of operations that IEEE 754 defines to the bit (sums, products, square
/// roots, conversions), none fused with another, so the bits are the same on every processor and
/// for every compiler.

#include <cmath>
#include <cstdint>

// Random123 takes all of x86intrin.h, near a second of compile time, where SSE2's header will do.
#if defined(__SSE2__) && !defined(__SSE3__) && !defined(R123_USE_X86INTRIN_H)
#define R123_USE_X86INTRIN_H 0
#define R123_USE_EMMINTRIN_H 1
#endif
#include <Random123/philox.h>

#include <contraflow/core/host_device.hpp>
#include <contraflow/core/pack.hpp>

namespace contraflow::philox {

/// A draw: with a row and a column it decides a number.
struct Draw {
  std::uint64_t key = 0;                ///< of the stream
  std::uint32_t number = 0;             ///< of the draw within the stream
  const std::int64_t* names = nullptr;  ///< of the rows; null: row i is named i

  /// The name of row @p i.
  CONTRAFLOW_HOST_DEVICE std::uint64_t name(std::int64_t i) const {
    return static_cast<std::uint64_t>(names == nullptr ? i : names[i]);
  }
};

/// Words of a block.
inline constexpr int block_words = 4;

/// 128 random bits.
struct Block {
  std::uint32_t words[block_words];  ///< one a column
};

/// The random bits of a block of a row.
CONTRAFLOW_HOST_DEVICE inline Block block_of(const Draw& draw, std::uint64_t name,
                                             std::uint32_t block) {
  const r123::Philox4x32::key_type key = {
      {static_cast<std::uint32_t>(draw.key), static_cast<std::uint32_t>(draw.key >> 32U)}};
  const r123::Philox4x32::ctr_type place = {{block, draw.number, static_cast<std::uint32_t>(name),
                                             static_cast<std::uint32_t>(name >> 32U)}};
  const r123::Philox4x32::ctr_type bits = philox4x32_R(10, place, key);
  return {{bits.v[0], bits.v[1], bits.v[2], bits.v[3]}};
}

/// Arithmetic of single numbers, for the functions below; `Packs` has it for many.
struct Numbers {
  using Float = float;          ///< what is computed
  using Bits = std::uint32_t;   ///< its bits
  using Signed = std::int32_t;  ///< its bits as a signed integer

  /// The nearest float.
  CONTRAFLOW_HOST_DEVICE static Float to_float(Signed x) { return static_cast<float>(x); }
  /// `a b`, rounded before anything is added to it.
  CONTRAFLOW_HOST_DEVICE static Float product(Float a, Float b) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(a, b);
#else
    return rounded(a * b);
#endif
  }
  /// The square root, correctly rounded.
  CONTRAFLOW_HOST_DEVICE static Float square_root(Float x) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(x);
#else
    return std::sqrt(x);
#endif
  }
  /// @p x itself, which the compiler takes for a number that it knows nothing of: without this a
  /// product and a sum would become one operation, where the processor has it, with other bits.
  static Float rounded(Float x) {
#if defined(__x86_64__)
    asm("" : "+x"(x));
#elif defined(__aarch64__)
    asm("" : "+w"(x));
#else
    asm("" : "+m"(x));
#endif
    return x;
  }
};

/// Two independent standard normal numbers.
template <class N>
struct NormalPair {
  typename N::Float first;   ///< one
  typename N::Float second;  ///< the other
};

namespace detail {

// `a b + c` in two roundings.
template <class N, class A, class C>
CONTRAFLOW_HOST_DEVICE typename N::Float scaled_sum(typename N::Float a, const A& b, const C& c) {
  return N::product(a, b) + c;
}

// -2 ln(u) of a word, u = (w + 1) / 2^31 for the upper 31 bits w. With u = 2^e (1 + f) and 1 + f
// within sqrt(1/2) and sqrt(2): a polynomial for the logarithm of 1 + f, to 2.6e-8 of it.
template <class N>
CONTRAFLOW_HOST_DEVICE typename N::Float minus_two_log(typename N::Bits word) {
  using Float = typename N::Float;
  using Bits = typename N::Bits;
  using Signed = typename N::Signed;
  const Float upper = N::to_float(with_bits_of<Signed>(Bits(word >> 1)));
  const Float u = scaled_sum<N>(upper, 0x1p-31f, 0x1p-32f);
  constexpr std::uint32_t root_of_half = 0x3f3504f3u;
  const Bits bits = with_bits_of<Bits>(u);
  const Signed e = with_bits_of<Signed>(Bits(bits - root_of_half)) >> 23;
  const Float f = with_bits_of<Float>(Bits(bits - (with_bits_of<Bits>(e) << 23))) - 1.0f;
  Float p = scaled_sum<N>(f, -0x1.654492p-3f, 0x1.263b9cp-2f);
  p = scaled_sum<N>(p, f, -0x1.3238ecp-2f);
  p = scaled_sum<N>(p, f, 0x1.5332a4p-2f);
  p = scaled_sum<N>(p, f, -0x1.98b74ap-2f);
  p = scaled_sum<N>(p, f, 0x1.00057p-1f);
  p = scaled_sum<N>(p, f, -0x1.555792p-1f);
  p = scaled_sum<N>(p, f, 0x1.fffff8p-1f);
  p = scaled_sum<N>(p, f, -2.0f);
  return scaled_sum<N>(p, f, N::product(N::to_float(e), -0x1.62e43p0f));
}

}  // namespace detail

/// Two standard normal numbers from two words (Box and Muller 1958), up to 6.66 in magnitude.
///
/// The radius is `sqrt(-2 ln u)`, u in [2^-32, 1]. The angle is `pi / 2 f`, f in [-1/2, 1/2), in a
/// quarter of the circle that two more bits choose: no argument is ever reduced.
template <class N>
CONTRAFLOW_HOST_DEVICE NormalPair<N> normal_pair(typename N::Bits radius, typename N::Bits angle) {
  using Float = typename N::Float;
  using Bits = typename N::Bits;
  using Signed = typename N::Signed;
  const Float r = N::square_root(detail::minus_two_log<N>(radius));
  const Float f = N::product(N::to_float(with_bits_of<Signed>(Bits(angle << 2))), 0x1p-32f);
  const Float w = N::product(f, f);
  Float sine = detail::scaled_sum<N>(w, -0x1.2d9302p-8f, 0x1.465e92p-4f);
  sine = detail::scaled_sum<N>(sine, w, -0x1.4abbbap-1f);
  sine = N::product(detail::scaled_sum<N>(sine, w, 0x1.921fb6p0f), f);
  Float cosine = detail::scaled_sum<N>(w, -0x1.4e844ap-6f, 0x1.03b09p-2f);
  cosine = detail::scaled_sum<N>(cosine, w, -0x1.3bd39cp0f);
  cosine = detail::scaled_sum<N>(cosine, w, 1.0f);
  const Bits sign = (angle << 1) & 0x80000000u;
  const Float side = with_bits_of<Float>(Bits(with_bits_of<Bits>(cosine) ^ sign));
  const auto swapped = with_bits_of<Signed>(angle) < 0;
  return {N::product(r, swapped ? sine : side), N::product(r, swapped ? side : sine)};
}

/// A uniform number in [0, 1), a multiple of 2^-24, from a word.
template <class N>
CONTRAFLOW_HOST_DEVICE typename N::Float unit_uniform(typename N::Bits word) {
  using Bits = typename N::Bits;
  const auto upper = with_bits_of<typename N::Signed>(Bits(word >> 8));
  return N::product(N::to_float(upper), 0x1p-24f);
}

}  // namespace contraflow::philox
