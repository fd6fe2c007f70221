#pragma once

/// @file
/// From encoded prompts to latents and images.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/random.hpp>
#include <contraflow/model/guidance.hpp>
#include <contraflow/network/text_condition.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/integrate.hpp>

namespace contraflow::pipeline {

/// What decides the shape of an image's latents, beside its size.
struct LatentGrid {
  std::int64_t channels = 16;     ///< of the latents
  std::int64_t downscale = 8;     ///< pixels a latent pixel, along each side
  std::int64_t patch_size = 2;    ///< latent pixels a patch, along each side
  std::int64_t most_patches = 0;  ///< along each side; 0: any number
};

/// Shape of one image's latents.
/// @param height pixels
/// @param width pixels
/// @param grid of the model
/// @throws Error if a side is not a multiple of the pixels that a patch covers
inline std::vector<std::int64_t> latent_shape(std::int64_t height, std::int64_t width,
                                              const LatentGrid& grid) {
  const std::int64_t unit = grid.downscale * grid.patch_size;
  const std::int64_t most = unit * grid.most_patches;
  const std::string expected = "a positive multiple of " + shown(unit) +
                               (most > 0 ? " up to " + shown(most) : std::string());
  const auto expects_side = [&](std::int64_t side, const char* name) {
    const bool fits = side >= unit && side % unit == 0 && (most == 0 || side <= most);
    if (!fits) throw Error(name, expected, shown(side));
  };
  expects_side(height, "height");
  expects_side(width, "width");
  return {grid.channels, height / grid.downscale, width / grid.downscale};
}

/// Noise for @p count images: image i is row i of a stream, and does not depend on the others of
/// its batch.
/// @param count number of images
/// @param shape of one image's latents
/// @param seed of the stream
/// @param options dtype and device
/// @return [count, ...shape]
inline Tensor image_noise(std::int64_t count, const std::vector<std::int64_t>& shape,
                          std::uint64_t seed, const at::TensorOptions& options = {}) {
  std::vector<std::int64_t> all{count};
  all.insert(all.end(), shape.begin(), shape.end());
  Generator generator = seeded(seed);
  return normal(all, generator, options);
}

/// Clean latents for prompts.
/// @param model a FlowModel under TextCondition
/// @param noise [B, C, H, W], float32
/// @param prompts B rows
/// @param negative one row, used where the guidance scale is above 1
/// @param guidance_scale of classifier-free guidance
/// @param grid sampling grid
/// @param solver a Solver; published images are made by DpmSolver<1>
/// @param generator of the solver's noise
/// @param hook told of each step, as integrate() does
/// @return float32, of the shape of the noise
template <class M, class S, class Hook = NoHook>
Tensor generate(M model, const Tensor& noise, const TextCondition& prompts,
                const TextCondition& negative, double guidance_scale, const TimeGrid& grid,
                const S& solver, Generator& generator, Hook&& hook = {}) {
  const at::NoGradGuard no_gradient;
  Guided<M, TextCondition> guided(std::move(model), negative, guidance_scale);
  const auto velocity = [&](const Tensor& x, double sigma) {
    return guided(x, at::full({x.size(0)}, sigma, x.options().dtype(at::kFloat)), prompts);
  };
  return integrate(solver, velocity, noise, grid, generator, std::forward<Hook>(hook));
}

}  // namespace contraflow::pipeline
