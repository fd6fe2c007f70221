#pragma once

/// @file
/// What rewards on images share: captions, and the checks of both.

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// Captions of images, one each, in UTF-8: what rewards on text and image take as their reference,
/// and `PromptRows(condition, captions)` gives them.
using Captions = std::vector<std::string>;

namespace detail {

inline void expects_images(const Tensor& images) {
  const bool is_batch = images.defined() && images.dim() == 4 && images.size(1) == 3;
  if (!is_batch || images.numel() == 0) {
    throw Error("images",
                "a non-empty batch of RGB images (of latents: see DecodedRewards) [B, 3, H, W]",
                shape_text(images));
  }
  if (!images.is_floating_point()) {
    throw Error("images", "a floating-point tensor with values in [0, 1]",
                shown(images.scalar_type()));
  }
}

inline void expects_captions(const Captions& captions, const Tensor& images) {
  if (std::int64_t(captions.size()) != images.size(0)) {
    throw Error("captions", "one an image, " + shown(images.size(0)), shown(captions.size()));
  }
}

// Images as rewards compute with them. What lies outside of [0, 1] is never shown, so a policy must
// not be paid for it.
inline Tensor pixel_values(const Tensor& images) {
  expects_images(images);
  return images.detach().to(at::kFloat).clamp(0, 1);
}

// Images as they would be saved: uint8 [B, 3, H, W] on the CPU.
inline Tensor pixel_bytes(const Tensor& images) {
  expects_images(images);
  const Tensor values = images.detach().to(at::kFloat).nan_to_num();
  return values.clamp(0, 1).mul(255).round().to(at::kCPU, at::kByte).contiguous();
}

// The same, laid out as encoders of files read them: where several threads each write some, none
// has work that LibTorch would spread over threads once more.
inline Tensor pixel_rows(const Tensor& images) {
  return pixel_bytes(images).permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
}

// Which images have no pixel that is not finite: bool [B] on the CPU.
inline Tensor whole_images(const Tensor& images) {
  return images.detach().isfinite().flatten(1).all(1).to(at::kCPU);
}

// Scores with NaN for every image that has a pixel which is not finite.
inline Tensor without_broken(const Tensor& scores, const Tensor& images) {
  return scores.masked_fill(whole_images(images).to(scores.device()).logical_not(),
                            std::numeric_limits<double>::quiet_NaN());
}

}  // namespace detail

}  // namespace contraflow
