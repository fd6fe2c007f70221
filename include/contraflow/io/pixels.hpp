#pragma once

/// @file
/// Images of 8 bits a channel, between tensors and the files of them.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>

#include <ATen/core/Tensor.h>

#include <contraflow/core/error.hpp>
#include <contraflow/core/tensor.hpp>

namespace contraflow {

namespace images {

inline constexpr std::int64_t max_pixels = std::int64_t{1} << 28;

// What a file says of its image before the pixels. Anything of C++ is kept out of the functions
// that libpng and libjpeg may leave by longjmp.
struct Size {
  std::int64_t width = 0, height = 0;
};

using Message = std::array<char, 200>;

struct Bytes {
  const std::uint8_t* data;
  std::size_t size;
};

inline void keep(Message& message, const char* text) {
  std::snprintf(message.data(), message.size(), "%s", text);
}

inline void check_size(const std::string& name, const Size& size) {
  if (size.width < 1 || size.height < 1 || size.width > max_pixels / size.height) {
    throw Error(name, "an image of 1 to " + std::to_string(max_pixels) + " pixels",
                std::to_string(size.width) + " x " + std::to_string(size.height));
  }
}

// A header may promise pixels that a file of this size cannot hold: refused before there is memory
// for them.
inline void check_plausible(const std::string& name, std::int64_t raw_bytes, std::int64_t most) {
  if (raw_bytes > most) {
    throw Error(name, "the data of its pixels", "a file too short for the size it states");
  }
}

// Pixels as uint8 [H, W, 3], on the CPU.
inline Tensor pixels_of(const Tensor& image) {
  const bool shaped =
      image.defined() && image.dim() == 3 && image.size(0) == 3 && image.numel() > 0;
  expects(shaped, "image", "shape [3, H, W]", shape_text(image));
  const bool bytes = image.scalar_type() == at::kByte;
  expects(bytes || at::isFloatingType(image.scalar_type()), "image", "a floating dtype or uint8",
          image.scalar_type());
  expects(image.size(2) <= max_pixels / image.size(1), "image", "at most 2^28 pixels",
          shape_text(image));
  Tensor values = image.detach().to(at::kCPU);
  if (!bytes) {
    values = (wide(values).nan_to_num(0, 1, 0) * 255).round().clamp(0, 255).to(at::kByte);
  }
  return values.permute({1, 2, 0}).contiguous();
}

// Image [3, H, W] of pixels uint8 [H, W, C]; a fourth channel is how opaque a pixel is on white.
inline Tensor image_of(const Tensor& pixels) {
  Tensor image = pixels.narrow(2, 0, 3).permute({2, 0, 1}).contiguous().to(at::kFloat).div_(255);
  if (pixels.size(2) == 3) return image;
  const Tensor alpha = pixels.select(2, 3).to(at::kFloat).div_(255);
  return image.mul_(alpha).add_(1 - alpha);
}

}  // namespace images

}  // namespace contraflow
