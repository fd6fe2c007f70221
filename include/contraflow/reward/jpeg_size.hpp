#pragma once

/// @file
/// Rewards on images by their size as JPEG files.

#include <contraflow/io/jpeg.hpp>
#include <contraflow/reward/image_batch.hpp>

namespace contraflow {

namespace detail {

// Sizes of images as JPEG files, in kB of 1000 bytes.
inline Tensor jpeg_sizes(const Tensor& images, int quality) {
  expects(quality >= 1 && quality <= 100, "quality", "from 1 to 100", quality);
  const Tensor bytes = pixel_bytes(images);
  Tensor sizes = at::empty({images.size(0)}, at::kFloat);
  for (std::int64_t i = 0; i < images.size(0); ++i) {
    sizes[i] = double(encode_jpeg(bytes[i], quality).size()) / 1000;
  }
  return without_broken(sizes, images);
}

}  // namespace detail

/// How much detail an image has: its size as a JPEG file, in kB.
///
/// The size depends on the JPEG library by a few bytes. As in DDPO (Black and others 2023, section
/// 5.1), with chroma at half resolution.
struct JpegIncompressibility {
  int quality = 95;  ///< of the encoder, from 1 to 100

  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B]
  /// @throws Error for anything else, or a quality that there is not
  Tensor operator()(const Tensor& images) const { return detail::jpeg_sizes(images, quality); }
};

/// How little detail an image has: minus its size as a JPEG file, in kB (Black and others 2023,
/// section 5.1). A published trainer divides this by 500: use a weight.
struct JpegCompressibility {
  int quality = 95;  ///< of the encoder, from 1 to 100

  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B]
  /// @throws Error for anything else, or a quality that there is not
  Tensor operator()(const Tensor& images) const { return -detail::jpeg_sizes(images, quality); }
};

}  // namespace contraflow
