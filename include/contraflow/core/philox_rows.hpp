#pragma once

/// @file
/// Rows of random numbers on the host, in packs. No LibTorch.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__x86_64__)
#include <emmintrin.h>
#endif

#include <contraflow/core/pack.hpp>
#include <contraflow/core/philox.hpp>

namespace contraflow::philox {

/// Standard normal numbers, for fill_rows.
struct NormalNumbers {
  /// The numbers of a block of which @p columns are wanted, in place of its words.
  template <class N>
  CONTRAFLOW_HOST_DEVICE static void convert(const typename N::Bits (&words)[block_words],
                                             typename N::Float (&numbers)[block_words],
                                             std::int64_t columns) {
    const NormalPair<N> one = normal_pair<N>(words[0], words[1]);
    numbers[0] = one.first;
    numbers[1] = one.second;
    // Where rows are points of a plane the other half of a block is never made.
    const NormalPair<N> two = columns > 2 ? normal_pair<N>(words[2], words[3]) : one;
    numbers[2] = two.first;
    numbers[3] = two.second;
  }
};

/// Uniform numbers in [0, 1), for fill_rows.
struct UniformNumbers {
  /// See NormalNumbers.
  template <class N>
  CONTRAFLOW_HOST_DEVICE static void convert(const typename N::Bits (&words)[block_words],
                                             typename N::Float (&numbers)[block_words],
                                             std::int64_t /*columns*/) {
    for (int i = 0; i < block_words; ++i) numbers[i] = unit_uniform<N>(words[i]);
  }
};

/// Where fill_rows puts numbers: into an array. Any type with these two members will do.
struct Written {
  float* out;  ///< [rows, columns], row after row

  /// Takes the number of a place.
  CONTRAFLOW_HOST_DEVICE void operator()(std::int64_t i, float number) const { out[i] = number; }
  /// Takes a pack of numbers, N being Packs.
  template <class N>
  void pack(std::int64_t i, const typename N::Float& numbers) const {
    std::memcpy(out + i, &numbers, sizeof(numbers));
  }
};

/// Blocks of a row of @p columns numbers.
CONTRAFLOW_HOST_DEVICE inline std::int64_t blocks_of(std::int64_t columns) {
  return (columns + block_words - 1) / block_words;
}

/// Hands the numbers of block @p item, counted through all rows, to @p sink.
template <class Distribution, class Sink>
CONTRAFLOW_HOST_DEVICE void fill_block(const Draw& draw, std::int64_t item, std::int64_t columns,
                                       const Sink& sink) {
  const std::int64_t row = item / blocks_of(columns);
  const std::int64_t block = item % blocks_of(columns);
  const Block bits = block_of(draw, draw.name(row), static_cast<std::uint32_t>(block));
  const std::int64_t first = block * block_words;
  float numbers[block_words];
  Distribution::template convert<Numbers>(bits.words, numbers, columns);
  for (int i = 0; i < block_words && first + i < columns; ++i) {
    sink(row * columns + first + i, numbers[i]);
  }
}

#if !defined(__CUDACC__)

/// Arithmetic of packs of numbers, see Numbers.
struct Packs {
  using Float = Pack<float>;          ///< what is computed
  using Bits = Pack<std::uint32_t>;   ///< its bits
  using Signed = Pack<std::int32_t>;  ///< its bits as signed integers
  using Wide = Pack<std::uint64_t>;   ///< two words in the place of each

  /// The nearest floats.
  static Float to_float(const Signed& x) { return __builtin_convertvector(x, Float); }
  /// `a b`, rounded before anything is added to it.
  static Float product(const Float& a, const Float& b) {
    Float result = a * b;
#if defined(__AVX512F__)
    asm("" : "+v"(result));
#elif defined(__x86_64__)
    asm("" : "+x"(result));
#elif defined(__aarch64__)
    asm("" : "+w"(result));
#else
    asm("" : "+m"(result));
#endif
    return result;
  }
  /// The same with one factor for all.
  static Float product(const Float& a, float b) { return product(a, Float{} + b); }
  /// The square roots, correctly rounded.
  static Float square_root(const Float& x) {
#if defined(__AVX512F__)
    return _mm512_maskz_sqrt_ps(0xffff, x);
#elif defined(__AVX__)
    return _mm256_sqrt_ps(x);
#elif defined(__x86_64__)
    return _mm_sqrt_ps(x);
#else
    Float result;
    for (std::size_t i = 0; i < pack_lanes<float>; ++i) result[i] = std::sqrt(x[i]);
    return result;
#endif
  }
  /// Products of the lower words, 64 bits each.
  static Wide wide_product(const Wide& a, const Wide& b) {
#if defined(__AVX512F__)
    // The form with a mask, all of it: g++ 12 says of the other that it reads what was never set.
    return Wide(_mm512_maskz_mul_epu32(0xff, __m512i(a), __m512i(b)));
#elif defined(__AVX2__)
    return Wide(_mm256_mul_epu32(__m256i(a), __m256i(b)));
#elif defined(__x86_64__) && !defined(__AVX__)
    return Wide(_mm_mul_epu32(__m128i(a), __m128i(b)));
#else
    return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
  }
};

namespace detail {

inline constexpr std::int64_t pack_items = pack_lanes<float>;

// Blocks of a pack are numbered so that `transpose` leaves them in their order: with lanes in
// groups of four, lane j of group g has block `groups j + g`.
constexpr std::int64_t item_of_lane(std::int64_t lane) {
  return pack_items / block_words * (lane % block_words) + lane / block_words;
}

using WordArray = std::array<std::uint32_t, static_cast<std::size_t>(pack_items)>;

constexpr WordArray items_of_lanes() {
  WordArray items{};
  for (std::size_t i = 0; i < items.size(); ++i) {
    items[i] = static_cast<std::uint32_t>(item_of_lane(static_cast<std::int64_t>(i)));
  }
  return items;
}

// The counters of a pack of blocks.
struct Places {
  Packs::Bits block, low, high;
};

inline Places places_of_row(const Draw& draw, std::int64_t row, std::int64_t block) {
  static constexpr WordArray order = items_of_lanes();
  const std::uint64_t name = draw.name(row);
  return {with_bits_of<Packs::Bits>(order) + static_cast<std::uint32_t>(block),
          Packs::Bits{} + static_cast<std::uint32_t>(name),
          Packs::Bits{} + static_cast<std::uint32_t>(name >> 32U)};
}

// The same where a pack holds blocks of several rows; of those behind the last one the first is
// made again.
inline Places places_of_rows(const Draw& draw, std::int64_t first, std::int64_t count,
                             std::int64_t blocks) {
  WordArray block, low, high;
  std::int64_t row = first / blocks, within = first % blocks;
  for (std::int64_t i = 0; i < pack_items; ++i) {
    const auto lane = static_cast<std::size_t>(i % (pack_items / block_words) * block_words +
                                               i / (pack_items / block_words));
    const std::uint64_t name = draw.name(row);
    block[lane] = static_cast<std::uint32_t>(within);
    low[lane] = static_cast<std::uint32_t>(name);
    high[lane] = static_cast<std::uint32_t>(name >> 32U);
    if (i + 1 < count && ++within == blocks) {
      within = 0;
      ++row;
    }
  }
  return {with_bits_of<Packs::Bits>(block), with_bits_of<Packs::Bits>(low),
          with_bits_of<Packs::Bits>(high)};
}

// Ten rounds for blocks whose words lie in the lower halves of lanes of 64 bits; what the upper
// halves hold does not matter.
inline void philox_rounds(Packs::Wide (&words)[block_words], std::uint64_t key) {
  using Wide = Packs::Wide;
  constexpr Wide first = Wide{} + 0xD2511F53u, second = Wide{} + 0xCD9E8D57u;
  auto low = static_cast<std::uint32_t>(key);
  auto high = static_cast<std::uint32_t>(key >> 32U);
  for (int round = 0; round < 10; ++round) {
    const Wide one = Packs::wide_product(words[0], first);
    const Wide two = Packs::wide_product(words[2], second);
    words[0] = (two >> 32) ^ words[1] ^ std::uint64_t{low};
    words[2] = (one >> 32) ^ words[3] ^ std::uint64_t{high};
    words[1] = two;
    words[3] = one;
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
}

// The random bits of a pack of blocks: the even lanes and the odd ones in turn.
inline void pack_of_blocks(const Draw& draw, const Places& places,
                           Packs::Bits (&words)[block_words]) {
  using Wide = Packs::Wide;
  const Wide number = Wide{} + std::uint64_t{draw.number};
  const Wide block = with_bits_of<Wide>(places.block);
  const Wide low = with_bits_of<Wide>(places.low), high = with_bits_of<Wide>(places.high);
  Wide even[block_words] = {block, number, low, high};
  Wide odd[block_words] = {block >> 32, number, low >> 32, high >> 32};
  philox_rounds(even, draw.key);
  philox_rounds(odd, draw.key);
  for (int i = 0; i < block_words; ++i) {
    words[i] = with_bits_of<Packs::Bits>(Wide((even[i] & 0xffffffffu) | (odd[i] << 32)));
  }
}

template <std::size_t... i>
Packs::Float lower_of_groups(const Packs::Float& a, const Packs::Float& b,
                             std::index_sequence<i...>) {
  return __builtin_shufflevector(a, b, (i / 4 * 4 + i % 4 / 2 + i % 2 * sizeof...(i))...);
}
template <std::size_t... i>
Packs::Float upper_of_groups(const Packs::Float& a, const Packs::Float& b,
                             std::index_sequence<i...>) {
  return __builtin_shufflevector(a, b, (i / 4 * 4 + i % 4 / 2 + 2 + i % 2 * sizeof...(i))...);
}

// From a pack for each word of the blocks to blocks one behind the other.
inline void transpose(Packs::Float (&x)[block_words]) {
  using Float = Packs::Float;
  constexpr auto all = std::make_index_sequence<static_cast<std::size_t>(pack_items)>{};
  const Float a = lower_of_groups(x[0], x[2], all), b = lower_of_groups(x[1], x[3], all);
  const Float c = upper_of_groups(x[0], x[2], all), d = upper_of_groups(x[1], x[3], all);
  x[0] = lower_of_groups(a, b, all);
  x[1] = upper_of_groups(a, b, all);
  x[2] = lower_of_groups(c, d, all);
  x[3] = upper_of_groups(c, d, all);
}

// Hands over what a pack of blocks holds where not all of it is wanted.
template <class Sink>
void hand_over_pieces(const Packs::Float (&numbers)[block_words], std::int64_t first,
                      std::int64_t count, std::int64_t columns, const Sink& sink) {
  std::array<float, static_cast<std::size_t>(block_words * pack_items)> values;
  std::memcpy(values.data(), numbers, sizeof(numbers));
  const std::int64_t blocks = blocks_of(columns);
  std::int64_t column = first % blocks * block_words;
  std::int64_t at = first / blocks * columns + column;
  for (std::int64_t i = 0; i < count; ++i) {
    const float* block = values.data() + i * block_words;
    for (int k = 0; k < block_words && column < columns; ++k) sink(at++, block[k]), ++column;
    if (column == columns) column = 0;
  }
}

// Blocks first ... first + count - 1, counted through all rows: at most a pack of them.
template <class Distribution, class Sink>
void fill_pack(const Draw& draw, std::int64_t first, std::int64_t count, std::int64_t columns,
               const Sink& sink) {
  const std::int64_t blocks = blocks_of(columns), row = first / blocks, block = first % blocks;
  const bool in_one_row = count == pack_items && block + pack_items <= blocks;
  const Places places =
      in_one_row ? places_of_row(draw, row, block) : places_of_rows(draw, first, count, blocks);
  Packs::Bits words[block_words];
  pack_of_blocks(draw, places, words);
  Packs::Float numbers[block_words];
  Distribution::template convert<Packs>(words, numbers, columns);
  transpose(numbers);
  const bool whole_blocks =
      columns % block_words == 0 || (in_one_row && (block + pack_items) * block_words <= columns);
  if (count < pack_items || !whole_blocks) {
    return hand_over_pieces(numbers, first, count, columns, sink);
  }
  const std::int64_t at = row * columns + block * block_words;
  for (int i = 0; i < block_words; ++i) {
    sink.template pack<Packs>(at + i * pack_items, numbers[i]);
  }
}

}  // namespace detail

/// Hands every number of a draw to @p sink, in packs and in parallel. Each depends on its place
/// alone, so how the work is divided does not matter.
/// @tparam Distribution NormalNumbers or UniformNumbers
/// @param draw which numbers
/// @param rows number of rows, at least 0
/// @param columns numbers in a row, from 0 to 2^34
/// @param sink Written or one like it
/// @param loop called as `loop(count, body)`, calls `body(begin, end)` on ranges that together
///   cover [0, count)
template <class Distribution, class Sink, class Loop>
void fill_rows(const Draw& draw, std::int64_t rows, std::int64_t columns, const Sink& sink,
               const Loop& loop) {
  const std::int64_t items = rows * blocks_of(columns);
  loop((items + detail::pack_items - 1) / detail::pack_items,
       [&](std::int64_t begin, std::int64_t end) {
         for (std::int64_t pack = begin; pack < end; ++pack) {
           const std::int64_t first = pack * detail::pack_items;
           const std::int64_t count = std::min(detail::pack_items, items - first);
           detail::fill_pack<Distribution>(draw, first, count, columns, sink);
         }
       });
}

#else

/// Hands every number of a draw to @p sink, one by one: nvcc refuses packs.
template <class Distribution, class Sink, class Loop>
void fill_rows(const Draw& draw, std::int64_t rows, std::int64_t columns, const Sink& sink,
               const Loop& loop) {
  loop(rows * blocks_of(columns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
      fill_block<Distribution>(draw, item, columns, sink);
    }
  });
}

#endif

}  // namespace contraflow::philox
