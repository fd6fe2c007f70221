#pragma once

/// @file
/// Images as CLIP's vision tower takes them, to the last bit as published.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>
#include <contraflow/reward/image_batch.hpp>

namespace contraflow {

namespace detail {

// What one output pixel of a resampled row is made of.
struct PixelWeights {
  std::int64_t first = 0;            // input pixel of the first weight
  std::vector<std::int32_t> values;  // in units of 2^-22
};

inline constexpr int pillow_bits = 22;

// Keys' cubic with a = -1/2.
inline double cubic(double x) {
  x = std::abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0;
}

// Pillow's weights: the cubic widened by the scale where an image shrinks, normalised, rounded half
// away from zero.
inline std::vector<PixelWeights> pillow_weights(std::int64_t in, std::int64_t out) {
  const double scale = double(in) / double(out), widening = std::max(scale, 1.0);
  const double support = 2 * widening, narrowing = 1 / widening;
  std::vector<PixelWeights> all;
  for (std::int64_t i = 0; i < out; ++i) {
    const double centre = (double(i) + 0.5) * scale;
    const auto first = std::max<std::int64_t>(0, std::int64_t(centre - support + 0.5));
    const auto last = std::min<std::int64_t>(in, std::int64_t(centre + support + 0.5));
    std::vector<double> weights;
    double sum = 0;
    for (std::int64_t k = first; k < last; ++k) {
      weights.push_back(cubic((double(k) - centre + 0.5) * narrowing));
      sum += weights.back();
    }
    PixelWeights pixel{first, {}};
    for (const double weight : weights) {
      const double fixed = weight / sum * (1 << pillow_bits);
      pixel.values.push_back(std::int32_t(fixed < 0 ? fixed - 0.5 : fixed + 0.5));
    }
    all.push_back(std::move(pixel));
  }
  return all;
}

// Resamples the rows of bytes [..., W] as Pillow does, rounded to bytes again.
inline Tensor pillow_rows(const Tensor& bytes, std::int64_t width) {
  const std::int64_t in_width = bytes.size(-1);
  if (in_width == width) return bytes;
  std::vector<std::int64_t> shape = bytes.sizes().vec();
  shape.back() = width;
  Tensor result = at::empty(shape, at::kByte);
  const Tensor rows = bytes.contiguous();
  const std::vector<PixelWeights> pixels = pillow_weights(in_width, width);
  const auto* in = data_of<const std::uint8_t>(rows);
  auto* out = result.mutable_data_ptr<std::uint8_t>();
  for (const auto* end = in + rows.numel(); in != end; in += in_width) {
    for (const PixelWeights& pixel : pixels) {
      std::int64_t sum = std::int64_t{1} << (pillow_bits - 1);
      const std::uint8_t* next = in + pixel.first;
      for (const std::int32_t weight : pixel.values) sum += std::int64_t{weight} * *next++;
      *out++ = std::uint8_t(std::clamp<std::int64_t>(sum >> pillow_bits, 0, 255));
    }
  }
  return result;
}

// Side lengths with the shorter one brought to `size`.
inline std::array<std::int64_t, 2> with_shorter_side(const Tensor& images, std::int64_t size) {
  const std::int64_t height = images.size(-2), width = images.size(-1);
  const std::int64_t shorter = std::min(height, width), longer = std::max(height, width);
  const auto grown = std::int64_t(double(size * longer) / double(shorter));
  return height <= width ? std::array{size, grown} : std::array{grown, size};
}

inline Tensor window(const Tensor& images, std::int64_t top, std::int64_t left, std::int64_t size) {
  return images.narrow(-2, top, size).narrow(-1, left, size);
}

}  // namespace detail

/// Resamples images by Pillow's bicubic filter on bytes, bit for bit.
///
/// Rows first, then columns, each rounded to bytes; LibTorch's antialiased resampling differs in
/// the last bit.
/// @par Shape
/// @p bytes uint8 [..., H, W] on the CPU; result uint8 [..., height, width]
/// @param bytes images
/// @param height of the result, at least 1
/// @param width of the result, at least 1
/// @throws Error for anything else
inline Tensor pillow_bicubic(const Tensor& bytes, std::int64_t height, std::int64_t width) {
  const bool is_image = bytes.defined() && bytes.dim() >= 2 && bytes.numel() > 0 &&
                        bytes.scalar_type() == at::kByte && bytes.is_cpu();
  if (!is_image) throw Error("bytes", "non-empty uint8 images [..., H, W]", shape_text(bytes));
  expects(height >= 1, "height", "at least 1", height);
  expects(width >= 1, "width", "at least 1", width);
  const Tensor narrow = detail::pillow_rows(bytes, width).transpose(-1, -2);
  return detail::pillow_rows(narrow, height).transpose(-1, -2).contiguous();
}

/// How published scorers bring images to the size of CLIP.
enum class ClipPreprocessing {
  /// CLIPImageProcessor of transformers: rounded to bytes, the shorter side resampled to the size
  /// by
  /// Pillow's bicubic filter, the centre cut out. For PickScore and the aesthetic predictor.
  transformers,
  /// torchvision on floats: the shorter side resampled bilinearly with antialiasing, the centre cut
  /// out. For the CLIP score of the published trainers.
  torchvision,
  /// The longer side resampled by a bicubic filter with antialiasing, on floats, black at both ends
  /// of the shorter one. For HPS v2.1.
  padded,
};

namespace detail {

inline Tensor framed_as_transformers(const Tensor& images, std::int64_t size) {
  const Tensor bytes = pixel_bytes(images);
  const auto [height, width] = with_shorter_side(bytes, size);
  const Tensor resized = pillow_bicubic(bytes, height, width);
  const Tensor centre = window(resized, (height - size) / 2, (width - size) / 2, size);
  return centre.to(at::kDouble).mul_(1.0 / 255).to(images.device(), at::kFloat);
}

inline Tensor framed_as_torchvision(const Tensor& images, std::int64_t size) {
  const Tensor values = pixel_values(images);
  const auto [height, width] = with_shorter_side(values, size);
  const bool fits = values.size(-2) == height && values.size(-1) == width;
  const Tensor resized =
      fits ? values : at::_upsample_bilinear2d_aa(values, {height, width}, /*align_corners=*/false);
  const auto start = [&](std::int64_t side) {
    return std::int64_t(std::nearbyint(double(side - size) / 2));
  };
  return window(resized, start(height), start(width), size);
}

inline Tensor framed_with_padding(const Tensor& images, std::int64_t size) {
  const Tensor values = pixel_values(images);
  const double scale = double(size) / double(std::max(values.size(-2), values.size(-1)));
  const auto scaled = [&](std::int64_t side) {
    return std::max<std::int64_t>(1, std::int64_t(std::nearbyint(double(side) * scale)));
  };
  const std::int64_t height = scaled(values.size(-2)), width = scaled(values.size(-1));
  const Tensor resized =
      scale == 1 ? values
                 : at::_upsample_bicubic2d_aa(values, {height, width}, /*align_corners=*/false);
  const std::int64_t high = size - height, wide = size - width;
  return at::constant_pad_nd(resized, {wide / 2, wide - wide / 2, high / 2, high - high / 2});
}

}  // namespace detail

/// Images as the vision tower of CLIP takes them: square and normalised, `(x - mean) / std` with
/// the mean and standard deviation of each channel in CLIP's training data.
/// @par Shape
/// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B, 3, size, size], on their device
/// @param images any size
/// @param size of a side of the result, at least 1
/// @param preprocessing the published way
/// @throws Error for anything else
inline Tensor clip_pixels(const Tensor& images, std::int64_t size,
                          ClipPreprocessing preprocessing) {
  expects(size >= 1, "size", "at least 1", size);
  const Tensor framed = [&] {
    switch (preprocessing) {
      case ClipPreprocessing::torchvision:
        return detail::framed_as_torchvision(images, size);
      case ClipPreprocessing::padded:
        return detail::framed_with_padding(images, size);
      case ClipPreprocessing::transformers:
        break;
    }
    return detail::framed_as_transformers(images, size);
  }();
  const auto row = [&](double r, double g, double b) {
    return at::tensor({r, g, b}, at::kFloat).to(framed.device()).view({3, 1, 1});
  };
  return (framed - row(0.48145466, 0.4578275, 0.40821073)) /
         row(0.26862954, 0.26130258, 0.27577711);
}

}  // namespace contraflow
