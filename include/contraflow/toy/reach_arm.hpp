#pragma once

/// @file
/// A planar arm that reaches for a goal among obstacles, simulated.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include <contraflow/core/tensor.hpp>
#include <contraflow/toy/reach_plane.hpp>

namespace contraflow::toy::reach {

/// An arm, what it is to do, and in how many steps.
struct World {
  std::int64_t joints = 2;     ///< at least 1
  std::int64_t obstacles = 2;  ///< at least 0
  std::int64_t horizon = 8;    ///< actions of a chunk, at least 1
  double tolerance = 0.1;      ///< largest distance of the hand to the goal at the end, above 0
  /// Largest angle between two links; the first joint turns freely.
  double angle_limit = 2.7;
  double speed_limit = 5;  ///< largest size of an action

  /// Radians by which a joint turns in a step whose action is 1: demonstrations of every arm have
  /// actions of about that size.
  double stride() const { return 0.3 / std::sqrt(double(joints)); }
  /// Numbers of a row that describes a scene.
  std::int64_t scene_size() const { return joints + 2 + 3 * obstacles; }
  /// Throws Error if a member is out of range.
  void check() const {
    expects(joints >= 1, "joints", "at least 1", joints);
    expects(obstacles >= 0, "obstacles", "at least 0", obstacles);
    expects(horizon >= 1, "horizon", "at least 1", horizon);
    expects(tolerance > 0, "tolerance", "above 0", tolerance);
    expects(angle_limit > 0, "angle_limit", "above 0", angle_limit);
    expects(speed_limit > 0, "speed_limit", "above 0", speed_limit);
  }
};

/// Where an arm starts, where it is to go, and what is in its way.
struct Scene {
  std::vector<double> angles;   ///< of each joint, to the link before
  Point goal;                   ///< of the hand
  std::vector<Disc> obstacles;  ///< not to be touched by any link

  /// @param world gives the numbers of joints and obstacles
  /// @param row scene_size() numbers
  static Scene of(const World& world, const float* row) {
    Scene scene;
    scene.angles.assign(row, row + world.joints);
    row += world.joints;
    scene.goal = {row[0], row[1]};
    row += 2;
    for (std::int64_t i = 0; i < world.obstacles; ++i, row += 3) {
      scene.obstacles.push_back({{row[0], row[1]}, row[2]});
    }
    return scene;
  }
};

/// The base, the joints behind the first, and the hand: one more than there are angles.
///
/// \f$ p_{k+1} = p_k + (\cos \phi_k, \sin \phi_k) / n \f$ with \f$ \phi_k = \sum_{i \le k} q_i \f$.
inline std::vector<Point> places_of(std::span<const double> angles) {
  std::vector<Point> places{{0, 0}};
  const double length = 1 / double(angles.size());
  double direction = 0;
  for (const double angle : angles) {
    direction += angle;
    places.push_back(places.back() + length * Point{std::cos(direction), std::sin(direction)});
  }
  return places;
}

/// The least clearance of any link from any obstacle; infinite where there is none.
inline double clearance(std::span<const Point> places, std::span<const Disc> obstacles) {
  double least = INFINITY;
  for (const Disc& disc : obstacles) {
    for (std::size_t k = 0; k + 1 < places.size(); ++k) {
      least = std::min(least, clearance(places[k], places[k + 1], disc));
    }
  }
  return least;
}

/// What came of a chunk of actions.
struct Outcome {
  double distance = INFINITY;  ///< of the hand to the goal, at the end
  bool collides = false;       ///< some link touched an obstacle on the way
  bool exceeds = false;        ///< an angle or a speed was over its limit
  bool reaches = false;        ///< the hand is near the goal, and neither of the above
};

namespace detail {

/// How often to look at a step so that the arm does not jump over an obstacle, at least four times.
/// Joints above the speed limit, whose step is lost anyway, count as at the limit.
inline int looks_at_step(const World& world, const Scene& scene, const float* actions) {
  double smallest = 1;
  for (const Disc& disc : scene.obstacles) smallest = std::min(smallest, disc.radius);
  double way = 0;  // of the hand at most; all other points move less
  for (std::int64_t i = 0; i < world.joints; ++i) {
    // In this order NaN is over the limit.
    const double speed = std::min(world.speed_limit, double(std::abs(actions[i])));
    way += world.stride() * speed * double(world.joints - i) / double(world.joints);
  }
  constexpr double most = 1000;
  return int(std::clamp(std::ceil(way / smallest), 4.0, most));
}

}  // namespace detail

/// Carries out a chunk of actions.
///
/// A step turns every joint at one speed, and is looked at so often that no point of the arm moves
/// further in between than the radius of the smallest obstacle: a link cannot jump over one. The
/// arm goes on through obstacles and limits; the outcome remembers.
/// @param world limits and tolerance
/// @param scene where the arm starts
/// @param actions horizon x joints numbers; one that is not finite exceeds the limits
/// @param watch called as `watch(places)` at the start and after every step
template <class F>
Outcome simulate(const World& world, const Scene& scene, const float* actions, F&& watch) {
  std::vector<double> angles = scene.angles;
  std::vector<Point> places = places_of(angles);
  Outcome outcome;
  watch(places);
  for (std::int64_t step = 0; step < world.horizon; ++step, actions += world.joints) {
    const int looks = detail::looks_at_step(world, scene, actions);
    for (int look = 0; look < looks; ++look) {
      for (std::size_t i = 0; i < angles.size(); ++i) {
        angles[i] += world.stride() * double(actions[i]) / looks;
        // Written so that NaN exceeds.
        if (!(std::abs(actions[i]) <= world.speed_limit)) outcome.exceeds = true;
        if (i > 0 && !(std::abs(angles[i]) <= world.angle_limit)) outcome.exceeds = true;
      }
      places = places_of(angles);
      if (clearance(places, scene.obstacles) <= 0) outcome.collides = true;
    }
    watch(places);
  }
  outcome.distance = norm(places.back() - scene.goal);
  outcome.reaches = outcome.distance <= world.tolerance && !outcome.collides && !outcome.exceeds;
  return outcome;
}

/// Carries out a chunk of actions that nobody watches.
inline Outcome simulate(const World& world, const Scene& scene, const float* actions) {
  return simulate(world, scene, actions, [](const std::vector<Point>&) {});
}

/// What came of many chunks, one for each scene.
/// @param world the arm
/// @param x0 chunks of actions [B, horizon, joints]
/// @param scenes [B, scene_size]
/// @throws Error if a shape does not fit
inline std::vector<Outcome> outcomes(const World& world, const Tensor& x0, const Tensor& scenes) {
  world.check();
  if (x0.dim() != 3 || x0.size(1) != world.horizon || x0.size(2) != world.joints) {
    throw Error("x0", "shape [B, " + shown(world.horizon) + ", " + shown(world.joints) + "]",
                shape_text(x0));
  }
  if (scenes.sizes() != at::IntArrayRef({x0.size(0), world.scene_size()})) {
    throw Error("scenes", "shape [" + shown(x0.size(0)) + ", " + shown(world.scene_size()) + "]",
                shape_text(scenes));
  }
  const Tensor actions = x0.detach().to(at::kCPU, at::kFloat).contiguous();
  const Tensor rows = scenes.to(at::kCPU, at::kFloat).contiguous();
  const auto* action = data_of<const float>(actions);
  const auto* row = data_of<const float>(rows);
  std::vector<Outcome> result;
  for (std::int64_t i = 0; i < x0.size(0); ++i) {
    result.push_back(simulate(world, Scene::of(world, row), action));
    action += world.horizon * world.joints;
    row += world.scene_size();
  }
  return result;
}

/// A Reward: 1 for a chunk of actions that reaches the goal, else 0.
struct Success {
  World world = {};  ///< the arm

  /// @par Shape
  /// @p x0 [B, horizon, joints], @p scenes [B, scene_size]; result float64 [B]
  Tensor operator()(const Tensor& x0, const Tensor& scenes) const {
    const std::vector<Outcome> all = outcomes(world, x0, scenes);
    Tensor result = at::empty({std::ssize(all)}, at::kDouble);
    auto* score = result.mutable_data_ptr<double>();
    for (const Outcome& outcome : all) *score++ = outcome.reaches ? 1 : 0;
    return result;
  }
};

}  // namespace contraflow::toy::reach
