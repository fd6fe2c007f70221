#pragma once

/// @file
/// Latents as the tokens of FLUX.1, and their positions.

#include <cstdint>
#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>
#include <contraflow/network/vae.hpp>
#include <contraflow/pipeline/image_generation.hpp>

namespace contraflow::flux {

/// Side of the square of latent pixels that is a token.
inline constexpr std::int64_t token_side = 2;

/// Latents as tokens, whose features are ordered by channel, row, column.
/// @param latents [B, C, H, W] with H and W even
/// @return [B, H/2 W/2, 4 C]
/// @throws Error if the shape does not fit
inline Tensor packed(const Tensor& latents) {
  const bool fits = latents.defined() && latents.dim() == 4 && latents.numel() > 0 &&
                    latents.size(2) % token_side == 0 && latents.size(3) % token_side == 0;
  if (!fits) throw Error("latents", "shape [B, C, H, W] with H and W even", shape_text(latents));
  return at::pixel_unshuffle(latents, token_side).flatten(2).transpose(1, 2).contiguous();
}

/// Tokens as latents again: undoes packed().
/// @param tokens [B, rows columns, 4 C]
/// @param rows of tokens
/// @param columns of tokens
/// @return [B, C, 2 rows, 2 columns]
/// @throws Error if the shape does not fit
inline Tensor unpacked(const Tensor& tokens, std::int64_t rows, std::int64_t columns) {
  const bool fits = tokens.defined() && tokens.dim() == 3 && tokens.size(1) == rows * columns &&
                    tokens.size(2) % (token_side * token_side) == 0;
  if (!fits) {
    throw Error("tokens", "shape [B, " + shown(rows * columns) + ", 4 C]", shape_text(tokens));
  }
  return at::pixel_shuffle(tokens.transpose(1, 2).unflatten(2, {rows, columns}), token_side);
}

/// Positions of the tokens of an image: 0 for the image itself, row, column.
/// @param rows of tokens
/// @param columns of tokens
/// @return float32 [rows columns, 3]
inline Tensor image_positions(std::int64_t rows, std::int64_t columns) {
  const auto row = at::arange(rows, at::kFloat).repeat_interleave(columns);
  const auto column = at::arange(columns, at::kFloat).repeat({rows});
  return at::stack({at::zeros({rows * columns}), row, column}, 1);
}

/// Shape of one image's latents; sizes round down to whole tokens, as published.
/// @param height pixels, at least those of a token
/// @param width pixels, likewise
/// @param vae of the model
/// @throws Error if a side is shorter than a token
inline std::vector<std::int64_t> latent_shape(std::int64_t height, std::int64_t width,
                                              const VaeOptions& vae) {
  const std::int64_t unit = token_side * vae.downscale();
  for (const auto& [name, side] : {std::pair("height", height), std::pair("width", width)}) {
    if (side < unit) throw Error(name, "at least " + shown(unit), shown(side));
  }
  return pipeline::latent_shape(
      height - height % unit, width - width % unit,
      {.channels = vae.latent_channels, .downscale = vae.downscale(), .patch_size = token_side});
}

/// Number of tokens of one image.
/// @param shape of its latents, [C, H, W]
/// @throws Error if that is no such shape
inline std::int64_t token_count(const std::vector<std::int64_t>& shape) {
  expects(shape.size() == 3, "shape", "[C, H, W]", at::IntArrayRef(shape));
  return shape.at(1) / token_side * (shape.at(2) / token_side);
}

}  // namespace contraflow::flux
