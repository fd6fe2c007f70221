#pragma once

/// @file
/// Pictures of reports from images.

#include <string>
#include <utility>
#include <vector>

#include <contraflow/io/png.hpp>
#include <contraflow/observe/report.hpp>

namespace contraflow {

/// An image as a picture for `EpochReport::pictures`.
/// @param name as a metric's
/// @param image as for encode_png
/// @throws Error as encode_png does
/// @par Random numbers
/// none
inline Picture picture_of(std::string name, const Tensor& image) {
  const std::vector<std::uint8_t> bytes = encode_png(image);
  return {std::move(name), std::string(bytes.begin(), bytes.end()), image.size(2), image.size(1)};
}

}  // namespace contraflow
