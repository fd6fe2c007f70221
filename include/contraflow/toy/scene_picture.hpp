#pragma once

/// @file
/// Scenes as pictures for people.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include <contraflow/core/tensor.hpp>
#include <contraflow/toy/scene_detector.hpp>

namespace contraflow::toy::scenes {

/// A latent as a picture for people: each object in its cell and its colour, on a dark ground.
/// @param latent [8, 4, 4]
/// @param pixels side of a cell, at least 8
/// @return float32 [3, 4 pixels, 4 pixels] in [0, 1]
inline Tensor picture(const Tensor& latent, std::int64_t pixels = 24) {
  expects(pixels >= 8, "pixels", "at least 8", pixels);
  const std::int64_t size = side * pixels;
  Tensor image = at::full({3, size, size}, 0.09F);
  const Tensor values = latent.detach().to(at::kCPU, at::kFloat).contiguous();
  auto* pixel = image.mutable_data_ptr<float>();
  const auto is_inside = [](std::int64_t shape, float x, float y) {
    switch (shape) {
      case 0:
        return x * x + y * y < 1;
      case 1:
        return std::max(std::abs(x), std::abs(y)) < 0.9F;
      case 2:
        return y < 0.85F && y > 2 * std::abs(x) - 0.95F;
      case 3:
        return std::min(std::abs(x), std::abs(y)) < 0.32F &&
               std::max(std::abs(x), std::abs(y)) < 0.95F;
      default:  // not known: a ring
        return x * x + y * y < 1 && x * x + y * y > 0.6F;
    }
  };
  const Sight sight = seen(data_of<const float>(values));
  for (const Seen& object : sight.objects) {
    const std::int64_t row = object.cell / side, column = object.cell % side;
    for (std::int64_t i = 0; i < pixels * pixels; ++i) {
      const auto place = [&](std::int64_t at) {
        return 2.5F * ((float(at) + 0.5F) / float(pixels) - 0.5F);
      };
      if (!is_inside(object.shape, place(i % pixels), place(i / pixels))) continue;
      for (std::int64_t c = 0; c < 3; ++c) {
        const float value = data_of<const float>(values)[(5 + c) * cells + object.cell];
        pixel[(c * size + row * pixels + i / pixels) * size + column * pixels + i % pixels] =
            std::clamp(0.5F + 0.45F * value, 0.0F, 1.0F);
      }
    }
  }
  return image;
}

}  // namespace contraflow::toy::scenes
