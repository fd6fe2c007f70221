#pragma once

/// @file
/// A planar arm that reaches for a goal among obstacles.

#include <contraflow/toy/reach_arm.hpp>
#include <contraflow/toy/reach_demonstrations.hpp>

namespace contraflow::toy {

/// A planar arm that is to put its hand on a goal and to touch no obstacle: a simulator whose
/// answer, reached or not, has no gradient, scenes, and a controller that demonstrates badly.
///
/// The arm is held at the origin and its links, of equal lengths, sum to 1. A scene is a row
/// [joints + 2 + 3 obstacles]: the angles at the start, the goal, and x, y and radius of every
/// obstacle. A chunk of actions [horizon, joints] says how fast every joint turns in every step.
namespace reach {}

}  // namespace contraflow::toy
