#pragma once

/// @file
/// Scenes: compositional prompts, latents, and a detector, for text-to-image on a laptop.

#include <contraflow/toy/scene_detector.hpp>
#include <contraflow/toy/scene_drawing.hpp>
#include <contraflow/toy/scene_picture.hpp>
#include <contraflow/toy/scene_prompts.hpp>

namespace contraflow::toy {

/// Objects in a grid of 4 x 4 cells, asked for by a prompt of GenEval's categories (Ghosh and
/// others 2023) and judged by rule: GenEval in miniature.
///
/// A latent [8, 4, 4] holds occupancy (+1, -1), four channels of shape (+1 for the shape, -1 for
/// the others, 0 in an empty cell) and three of colour (+-1 a channel, 0 in an empty cell).
namespace scenes {}

}  // namespace contraflow::toy
