#pragma once

/// @file
/// Rewards on images that need neither weights nor a library: brightness, colours, sharpness.

#include <contraflow/reward/image_batch.hpp>

namespace contraflow {

namespace detail {

// Luma by the weights of Rec. 709: [B, H, W].
inline Tensor luma(const Tensor& values) {
  return 0.2126 * values.select(1, 0) + 0.7152 * values.select(1, 1) + 0.0722 * values.select(1, 2);
}

// Population variance over all but the batch, in float64: differences of squares cancel.
inline Tensor variance(const Tensor& x) {
  return x.to(at::kDouble).flatten(1).var(at::IntArrayRef{1}, /*unbiased=*/false);
}
inline Tensor mean(const Tensor& x) { return x.to(at::kDouble).flatten(1).mean(1); }

}  // namespace detail

/// Mean luma, from 0 (black) to 1 (white): `0.2126 R + 0.7152 G + 0.0722 B` (ITU-R BT.709) over all
/// pixels.
struct Brightness {
  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B]
  /// @throws Error for anything else
  Tensor operator()(const Tensor& images) const {
    const Tensor scores = detail::mean(detail::luma(detail::pixel_values(images)));
    return detail::without_broken(scores.to(at::kFloat), images);
  }
};

/// How colourful an image looks: 0 for greys, about 15 for slightly and 109 for extremely colourful
/// ones.
///
/// With R, G, B from 0 to 255, `rg = R - G` and `yb = (R + G) / 2 - B`: `sqrt(var rg + var yb) +
/// 0.3 sqrt(mean(rg)^2 + mean(yb)^2)` (Hasler and Suesstrunk 2003, "Measuring colourfulness in
/// natural images", M3).
struct Colourfulness {
  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B]
  /// @throws Error for anything else
  Tensor operator()(const Tensor& images) const {
    const Tensor values = 255 * detail::pixel_values(images);
    const Tensor red = values.select(1, 0), green = values.select(1, 1), blue = values.select(1, 2);
    const Tensor rg = red - green, yb = (red + green) / 2 - blue;
    const Tensor spread = (detail::variance(rg) + detail::variance(yb)).sqrt();
    const Tensor offset = at::hypot(detail::mean(rg), detail::mean(yb));
    return detail::without_broken((spread + 0.3 * offset).to(at::kFloat), images);
  }
};

/// How sharp an image is: the variance of the Laplacian of its luma from 0 to 255, over the pixels
/// that have four neighbours (Pech-Pacheco and others 2000).
struct Sharpness {
  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1], H and W at least 3; result float32 [B]
  /// @throws Error for anything else
  Tensor operator()(const Tensor& images) const {
    const Tensor y = 255 * detail::luma(detail::pixel_values(images));
    const std::int64_t height = y.size(1), width = y.size(2);
    expects(height >= 3 && width >= 3, "images", "at least 3 x 3 pixels", images.sizes());
    const auto shifted = [&](std::int64_t down, std::int64_t right) {
      return y.narrow(1, 1 + down, height - 2).narrow(2, 1 + right, width - 2);
    };
    const Tensor laplacian =
        shifted(-1, 0) + shifted(1, 0) + shifted(0, -1) + shifted(0, 1) - 4 * shifted(0, 0);
    return detail::without_broken(detail::variance(laplacian).to(at::kFloat), images);
  }
};

/// How far an image keeps to a palette, from 0 to 1: every pixel in one of its colours.
///
/// The mean over pixels of `exp(-d^2 / (2 width^2))`, d the distance in RGB to the nearest colour
/// of the palette. Not every colour has to appear.
struct Palette {
  Tensor colours;      ///< [K, 3] with values in [0, 1]
  double width = 0.1;  ///< distance at which a pixel counts 0.61; above 0

  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B]
  /// @throws Error for anything else, or a palette that is none
  Tensor operator()(const Tensor& images) const {
    const bool is_palette =
        colours.defined() && colours.dim() == 2 && colours.size(0) > 0 && colours.size(1) == 3;
    if (!is_palette) throw Error("colours", "colours [K, 3]", shape_text(colours));
    expects(width > 0, "width", "above 0", width);
    const Tensor values = detail::pixel_values(images);
    const Tensor palette = colours.detach().to(values.options()).view({-1, 3, 1, 1});
    // One colour at a time: K distances of every pixel at once would be large.
    Tensor nearest;
    for (const Tensor& colour : palette.unbind()) {
      const Tensor distance = (values - colour).square_().sum(1);
      nearest = nearest.defined() ? at::minimum(nearest, distance) : distance;
    }
    const Tensor scores = detail::mean(nearest.div_(-2 * width * width).exp_());
    return detail::without_broken(scores.to(at::kFloat), images);
  }
};

}  // namespace contraflow
