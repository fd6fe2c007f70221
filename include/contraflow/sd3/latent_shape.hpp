#pragma once

/// @file
/// Sizes of the latents of Stable Diffusion 3 and 3.5.

#include <cstdint>
#include <vector>

#include <contraflow/network/mmdit_network.hpp>
#include <contraflow/network/vae.hpp>
#include <contraflow/pipeline/image_generation.hpp>

namespace contraflow::sd3 {

using namespace pipeline;

/// Shape of one image's latents.
/// @param height pixels
/// @param width pixels
/// @param vae of the model
/// @param transformer of the model
/// @throws Error if a side is not a multiple of the pixels that a patch covers
inline std::vector<std::int64_t> latent_shape(std::int64_t height, std::int64_t width,
                                              const VaeOptions& vae,
                                              const MmditOptions& transformer) {
  return pipeline::latent_shape(height, width,
                                {.channels = transformer.in_channels,
                                 .downscale = vae.downscale(),
                                 .patch_size = transformer.patch_size,
                                 .most_patches = transformer.pos_embed_max_size});
}

}  // namespace contraflow::sd3
