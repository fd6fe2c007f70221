#pragma once

/// @file
/// Products of small matrices in float32 on the host, for operands that stay in the cache.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <contraflow/kernels/packed_loop.hpp>

namespace contraflow::kernels {

#if (defined(__AVX2__) && defined(__FMA__)) || defined(__AVX512F__)
/// Whether the processor that is compiled for makes these products worth their while: packs of at
/// least eight numbers, multiplied and added at once. Without, they are right but slow.
inline constexpr bool has_fast_products = true;
#else
/// Whether the processor that is compiled for makes these products worth their while: packs of at
/// least eight numbers, multiplied and added at once. Without, they are right but slow.
inline constexpr bool has_fast_products = false;
#endif

/// Rows of the tile that is kept in registers: with its two packs of columns it takes three of four
/// registers.
inline constexpr std::int64_t tile_rows = pack_bytes == 64 ? 12 : 6;
/// Columns of the tile that is kept in registers.
inline constexpr std::int64_t tile_columns = 2 * detail::float_lanes;

/// @p count, up to whole tiles of columns.
constexpr std::int64_t whole_columns(std::int64_t count) {
  return (count + tile_columns - 1) / tile_columns * tile_columns;
}
/// @p count, up to whole tiles of rows.
constexpr std::int64_t whole_rows(std::int64_t count) {
  return (count + tile_rows - 1) / tile_rows * tile_rows;
}
/// Elements from a row to the next in a block of @p columns: whole tiles and a cache line more, for
/// rows whose distance is a power of two share few places in the cache.
constexpr std::int64_t block_stride(std::int64_t columns) { return whole_columns(columns) + 16; }

namespace detail {

// What a tile begins with.
enum class From { zero, bias, result };

// `c = begin + a b` for a tile of `rows` rows and `packs` packs of columns. Where `by_columns`, the
// element (i, k) of the left factor is a[k lda + i], else a[i lda + k].
template <int rows, int packs, bool by_columns, From from>
inline void tile(const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* c,
                 std::int64_t ldc, std::int64_t depth, const float* bias) {
  Floats sum[rows][packs];
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < packs; ++j) {
      if constexpr (from == From::zero) sum[i][j] = Floats{};
      if constexpr (from == From::bias) sum[i][j] = load<float>(bias + j * float_lanes);
      if constexpr (from == From::result) sum[i][j] = load<float>(c + i * ldc + j * float_lanes);
    }
  }
  for (std::int64_t k = 0; k < depth; ++k, b += ldb) {
    Floats right[packs];
    for (int j = 0; j < packs; ++j) right[j] = load<float>(b + j * float_lanes);
    for (int i = 0; i < rows; ++i) {
      const float left = by_columns ? a[k * lda + i] : a[i * lda + k];
      for (int j = 0; j < packs; ++j) sum[i][j] += left * right[j];
    }
  }
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < packs; ++j) store<float>(c + i * ldc + j * float_lanes, sum[i][j]);
  }
}

// The tiles of fewer rows than a whole one.
template <int rows, int packs, bool by_columns, From from>
void rest_of_rows(std::int64_t wanted, const float* a, std::int64_t lda, const float* b,
                  std::int64_t ldb, float* c, std::int64_t ldc, std::int64_t depth,
                  const float* bias) {
  if constexpr (rows > 0) {
    if (wanted == rows)
      return tile<rows, packs, by_columns, from>(a, lda, b, ldb, c, ldc, depth, bias);
    rest_of_rows<rows - 1, packs, by_columns, from>(wanted, a, lda, b, ldb, c, ldc, depth, bias);
  }
}

template <int packs, bool by_columns, From from>
void tiles_of_rows(std::int64_t rows, const float* a, std::int64_t lda, const float* b,
                   std::int64_t ldb, float* c, std::int64_t ldc, std::int64_t depth,
                   const float* bias) {
  const std::int64_t step = by_columns ? 1 : lda;
  std::int64_t i = 0;
  for (; i + tile_rows <= rows; i += tile_rows) {
    tile<int(tile_rows), packs, by_columns, from>(a + i * step, lda, b, ldb, c + i * ldc, ldc,
                                                  depth, bias);
  }
  rest_of_rows<int(tile_rows) - 1, packs, by_columns, from>(rows - i, a + i * step, lda, b, ldb,
                                                            c + i * ldc, ldc, depth, bias);
}

// The product of tiles: b_panel and b_stride are the distances between tiles of columns and between
// rows of the right factor.
template <bool by_columns, From from>
void product(std::int64_t rows, std::int64_t columns, std::int64_t depth, const float* a,
             std::int64_t lda, const float* b, std::int64_t b_panel, std::int64_t b_stride,
             float* c, std::int64_t ldc, const float* bias = nullptr) {
  for (std::int64_t j = 0; j < columns; j += tile_columns, b += b_panel, c += tile_columns) {
    const float* own_bias = from == From::bias ? bias + j : nullptr;
    if (columns - j > float_lanes) {
      tiles_of_rows<2, by_columns, from>(rows, a, lda, b, b_stride, c, ldc, depth, own_bias);
    } else {
      tiles_of_rows<1, by_columns, from>(rows, a, lda, b, b_stride, c, ldc, depth, own_bias);
    }
  }
}

}  // namespace detail

/// The right factor of a product, laid out tile by tile: each has its columns side by side, row
/// after row, so that a product reads it as it lies.
class Panels {
 public:
  /// @param data row-major [depth, columns], or [columns, depth] where @p is_transposed
  /// @param depth rows of the factor
  /// @param columns of the factor; what is missing to whole tiles is zero
  /// @param is_transposed whether @p data is the transpose
  Panels(const float* data, std::int64_t depth, std::int64_t columns, bool is_transposed)
      : depth_(depth), columns_(columns), values_(std::size_t(depth * whole_columns(columns))) {
    const std::int64_t of_column = is_transposed ? depth : 1, of_row = is_transposed ? 1 : columns;
    float* target = values_.data();
    for (std::int64_t j = 0; j < columns; j += tile_columns) {
      const std::int64_t width = std::min(tile_columns, columns - j);
      for (std::int64_t k = 0; k < depth; ++k, target += tile_columns) {
        const float* source = data + j * of_column + k * of_row;
        for (std::int64_t i = 0; i < width; ++i) target[i] = source[i * of_column];
      }
    }
  }

  /// `c = a b + bias`.
  /// @param rows of a and c
  /// @param a row-major, @p lda elements from row to row
  /// @param lda at least the depth
  /// @param c row-major, @p ldc elements from row to row; written up to whole packs of columns
  /// @param ldc at least whole_columns() of the columns
  /// @param bias of whole_columns() of the columns; null for none
  void multiply(std::int64_t rows, const float* a, std::int64_t lda, float* c, std::int64_t ldc,
                const float* bias) const {
    const std::int64_t panel = depth_ * tile_columns;
    if (bias != nullptr) {
      detail::product<false, detail::From::bias>(rows, columns_, depth_, a, lda, values_.data(),
                                                 panel, tile_columns, c, ldc, bias);
    } else {
      detail::product<false, detail::From::zero>(rows, columns_, depth_, a, lda, values_.data(),
                                                 panel, tile_columns, c, ldc);
    }
  }

 private:
  std::int64_t depth_, columns_;
  std::vector<float> values_;
};

/// `c = c + a' b`: what a block of rows adds to the gradient of a weight.
/// @param block rows of a and b
/// @param rows of c, columns of a
/// @param columns of c and b
/// @param a row-major, @p lda elements from row to row
/// @param lda at least @p rows
/// @param b row-major, @p ldb elements from row to row, read up to whole packs of columns
/// @param ldb best block_stride() of the columns
/// @param c row-major, @p ldc elements from row to row; written up to whole packs of columns
/// @param ldc at least whole_columns() of the columns
inline void add_transposed_product(std::int64_t block, std::int64_t rows, std::int64_t columns,
                                   const float* a, std::int64_t lda, const float* b,
                                   std::int64_t ldb, float* c, std::int64_t ldc) {
  detail::product<true, detail::From::result>(rows, columns, block, a, lda, b, tile_columns, ldb, c,
                                              ldc);
}

}  // namespace contraflow::kernels
