#pragma once

/// @file
/// Many images as one.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <ATen/ops/full.h>

#include <contraflow/core/error.hpp>
#include <contraflow/io/pixels.hpp>

namespace contraflow {

/// Images side by side in rows, on white.
///
/// Each lies in the upper left corner of a cell as large as the largest image, with a margin
/// around.
/// @param images [3, H, W] each, of any sizes, all as for encode_png
/// @param columns images in a row, at least 1
/// @param margin pixels between images and at the border
/// @return float32 [3, H', W'] in [0, 1], in 8-bit steps
/// @throws Error for no images, images that encode_png refuses, or no columns
/// @par Random numbers
/// none
inline Tensor contact_sheet(const std::vector<Tensor>& images, std::int64_t columns,
                            std::int64_t margin = 4) {
  expects(!images.empty(), "images", "at least one", images.size());
  expects(columns >= 1, "columns", "at least 1", columns);
  expects(margin >= 0, "margin", "0 or more", margin);
  std::vector<Tensor> tiles;
  std::int64_t height = 0, width = 0;
  for (const Tensor& image : images) {
    tiles.push_back(images::image_of(images::pixels_of(image)));
    height = std::max(height, tiles.back().size(1));
    width = std::max(width, tiles.back().size(2));
  }
  const auto count = static_cast<std::int64_t>(tiles.size());
  const std::int64_t across = std::min(columns, count), rows = (count + columns - 1) / columns;
  Tensor sheet = at::full(
      {3, margin + rows * (height + margin), margin + across * (width + margin)}, 1.0, at::kFloat);
  for (std::int64_t i = 0; i < count; ++i) {
    const Tensor& tile = tiles[static_cast<std::size_t>(i)];
    sheet.narrow(1, margin + i / columns * (height + margin), tile.size(1))
        .narrow(2, margin + i % columns * (width + margin), tile.size(2))
        .copy_(tile);
  }
  return sheet;
}

}  // namespace contraflow
