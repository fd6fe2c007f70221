#pragma once

/// @file
/// A planar arm that reaches for a goal among obstacles.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include <contraflow/core/random.hpp>
#include <contraflow/core/tensor.hpp>

namespace contraflow::toy {

/// A planar arm that is to put its hand on a goal and to touch no obstacle: a simulator whose
/// answer, reached or not, has no gradient, scenes, and a controller that demonstrates badly.
///
/// The arm is held at the origin and its links, of equal lengths, sum to 1. A scene is a row
/// [joints + 2 + 3 obstacles]: the angles at the start, the goal, and x, y and radius of every
/// obstacle. A chunk of actions [horizon, joints] says how fast every joint turns in every step.
namespace reach {

/// A point of the plane, or a direction.
struct Point {
  double x = 0;  ///< to the right
  double y = 0;  ///< upwards

  /// Sum.
  friend Point operator+(Point a, Point b) { return {a.x + b.x, a.y + b.y}; }
  /// Difference.
  friend Point operator-(Point a, Point b) { return {a.x - b.x, a.y - b.y}; }
  /// Multiple.
  friend Point operator*(double factor, Point a) { return {factor * a.x, factor * a.y}; }
};

/// Scalar product.
inline double dot(Point a, Point b) { return a.x * b.x + a.y * b.y; }
/// Length.
inline double norm(Point a) { return std::hypot(a.x, a.y); }

/// An obstacle.
struct Disc {
  Point centre;       ///< of the disc
  double radius = 0;  ///< above 0
};

/// The point of the segment from @p from to @p to that is nearest to @p point.
inline Point nearest_on_segment(Point from, Point to, Point point) {
  const Point along = to - from;
  const double square = dot(along, along);
  if (square == 0) return from;
  return from + std::clamp(dot(point - from, along) / square, 0.0, 1.0) * along;
}

/// How far a segment stays away from a disc; below 0 where it enters it.
inline double clearance(Point from, Point to, const Disc& disc) {
  return norm(nearest_on_segment(from, to, disc.centre) - disc.centre) - disc.radius;
}

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

/// How well demonstrations are made.
struct Demonstrator {
  double careful = 0.5;     ///< share of demonstrations that mind the obstacles, in [0, 1]
  double aim_error = 0.05;  ///< std of the place aimed at, in each coordinate, at least 0
  double tremble = 0.3;     ///< std of the noise on every action, at least 0

  /// Throws Error if a member is out of range.
  void check() const {
    expects(careful >= 0 && careful <= 1, "careful", "a value in [0, 1]", careful);
    expects(aim_error >= 0, "aim_error", "at least 0", aim_error);
    expects(tremble >= 0, "tremble", "at least 0", tremble);
  }
};

namespace detail {

/// How a point moves when it turns about another: the column of a Jacobian.
inline Point turning(Point point, Point about) { return {about.y - point.y, point.x - about.x}; }

/// Adds the turns that move the hand: damped least squares, `J^T (J J^T + damping)^-1 move`.
inline void add_move(std::span<const Point> places, Point move, std::vector<double>& turns) {
  constexpr double damping = 1e-3;
  double xx = damping, xy = 0, yy = damping;
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const Point column = turning(places.back(), places[i]);
    xx += column.x * column.x;
    xy += column.x * column.y;
    yy += column.y * column.y;
  }
  const double determinant = xx * yy - xy * xy;
  const Point solved{(yy * move.x - xy * move.y) / determinant,
                     (xx * move.y - xy * move.x) / determinant};
  for (std::size_t i = 0; i < turns.size(); ++i) {
    turns[i] += dot(turning(places.back(), places[i]), solved);
  }
}

/// Adds turns that move every link away from the obstacles it is close to.
inline void add_evasion(std::span<const Point> places, std::span<const Disc> obstacles,
                        std::vector<double>& turns) {
  constexpr double close = 0.12, gain = 2;
  for (const Disc& disc : obstacles) {
    for (std::size_t k = 0; k < turns.size(); ++k) {
      const Point nearest = nearest_on_segment(places[k], places[k + 1], disc.centre);
      const Point away = nearest - disc.centre;
      const double gap = norm(away) - disc.radius;
      if (gap >= close || norm(away) == 0) continue;
      const Point push = gain * (close - gap) / norm(away) * away;
      for (std::size_t i = 0; i <= k; ++i) turns[i] += dot(turning(nearest, places[i]), push);
    }
  }
}

/// What decides over one demonstration: the place aimed at and the noise, standard normal.
struct Chance {
  bool is_careful;
  const float* normals;  ///< 2 + horizon x joints
};

/// Numbers of a Chance.
inline std::int64_t chance_size(const World& world) { return 2 + world.horizon * world.joints; }

/// Writes the chunk of actions of one demonstration.
inline void demonstrate(const World& world, const Scene& scene, const Demonstrator& demonstrator,
                        Chance chance, float* actions) {
  const Point error{chance.normals[0], chance.normals[1]};
  const Point aim = scene.goal + demonstrator.aim_error * error;
  const float* noise = chance.normals + 2;
  std::vector<double> angles = scene.angles;
  for (std::int64_t step = 0; step < world.horizon; ++step) {
    const std::vector<Point> places = places_of(angles);
    std::vector<double> turns(angles.size());
    add_move(places, 1 / double(world.horizon - step) * (aim - places.back()), turns);
    if (chance.is_careful) add_evasion(places, scene.obstacles, turns);
    for (std::size_t i = 0; i < angles.size(); ++i) {
      const double wanted = turns[i] / world.stride() + demonstrator.tremble * double(*noise++);
      const double action = std::clamp(wanted, -world.speed_limit, world.speed_limit);
      angles[i] += world.stride() * action;
      *actions++ = float(action);
    }
  }
}

/// Whether the careful controller gets there in any of some attempts.
inline bool is_solvable(const World& world, const Scene& scene, const float* normals,
                        std::int64_t attempts) {
  std::vector<float> actions(std::size_t(world.horizon * world.joints));
  for (std::int64_t i = 0; i < attempts; ++i, normals += chance_size(world)) {
    demonstrate(world, scene, {.aim_error = 0}, {true, normals}, actions.data());
    if (simulate(world, scene, actions.data()).reaches) return true;
  }
  return false;
}

/// A scene out of uniform numbers, scene_size() of them, in place.
inline void arrange(const World& world, float* row) {
  const auto between = [](float number, double low, double high) {
    return float(std::lerp(low, high, double(number)));
  };
  const double bend = std::min(4 / double(world.joints), world.angle_limit);
  row[0] = between(row[0], -M_PI, M_PI);
  for (std::int64_t i = 1; i < world.joints; ++i) row[i] = between(row[i], -bend, bend);
  const Point hand = places_of(std::vector<double>(row, row + world.joints)).back();
  float* goal = row + world.joints;
  const double turn = between(goal[0], -1.6, 1.6), far = between(goal[1], 0.3, 0.95);
  const double direction = std::atan2(hand.y, hand.x) + turn;
  goal[0] = float(far * std::cos(direction));
  goal[1] = float(far * std::sin(direction));
  for (float* disc = goal + 2; disc != row + world.scene_size(); disc += 3) {
    // Somewhere about the middle of the way.
    disc[0] = float((hand.x + goal[0]) / 2) + between(disc[0], -0.3, 0.3);
    disc[1] = float((hand.y + goal[1]) / 2) + between(disc[1], -0.3, 0.3);
    disc[2] = between(disc[2], 0.08, 0.16);
  }
}

/// Whether neither the start nor the goal is taken.
inline bool is_free(const World& world, const Scene& scene) {
  constexpr double room = 0.03;
  if (clearance(places_of(scene.angles), scene.obstacles) < room) return false;
  return std::all_of(scene.obstacles.begin(), scene.obstacles.end(), [&](const Disc& disc) {
    return norm(scene.goal - disc.centre) > disc.radius + world.tolerance;
  });
}

/// The solvable ones of a round of candidates: [some, scene_size].
inline Tensor solvable_candidates(const World& world, Generator& generator) {
  constexpr std::int64_t round = 1024, attempts = 8;
  const Tensor rows = uniform({round, world.scene_size()}, generator);
  const Tensor normals = normal({round, attempts * chance_size(world)}, generator);
  std::vector<std::int64_t> solvable;
  for (std::int64_t i = 0; i < round; ++i) {
    float* row = rows.mutable_data_ptr<float>() + i * world.scene_size();
    arrange(world, row);
    const Scene scene = Scene::of(world, row);
    const float* chances = data_of<const float>(normals) + i * normals.size(1);
    if (!is_free(world, scene)) continue;
    if (is_solvable(world, scene, chances, attempts)) solvable.push_back(i);
  }
  return rows.index_select(0, at::tensor(solvable, at::kLong));
}

}  // namespace detail

/// Draws scenes that can be solved.
///
/// The obstacles lie about the middle of the straight way from the hand to the goal. Kept is where
/// neither start nor goal is taken and a careful controller gets there in one of eight attempts.
/// @param world the arm
/// @param count scenes, at least 1
/// @param generator two draws for each round of candidates; without names of rows
/// @return float32 [count, scene_size]
/// @throws Error if the controller solves none of a round of candidates, or an argument is out of
/// range
inline Tensor draw_scenes(const World& world, std::int64_t count, Generator& generator) {
  world.check();
  expects(count >= 1, "count", "at least 1", count);
  std::vector<Tensor> kept;
  for (std::int64_t drawn = 0; drawn < count; drawn += kept.back().size(0)) {
    kept.push_back(detail::solvable_candidates(world, generator));
    if (kept.back().size(0) > 0) continue;
    throw Error("world", "scenes of which the controller solves some", "none");
  }
  return at::cat(kept).narrow(0, 0, count);
}

/// Demonstrates scenes, not too well: damped least squares towards a place near the goal, obstacles
/// minded or not, with noise on every action.
/// @param world the arm
/// @param scenes [B, scene_size]
/// @param demonstrator its faults
/// @param generator two draws are made; a row a scene
/// @return chunks of actions, float32 [B, horizon, joints]
/// @throws Error if a shape does not fit or an option is out of range
inline Tensor demonstrations(const World& world, const Tensor& scenes,
                             const Demonstrator& demonstrator, Generator& generator) {
  world.check();
  demonstrator.check();
  if (scenes.dim() != 2 || scenes.size(1) != world.scene_size()) {
    throw Error("scenes", "shape [B, " + shown(world.scene_size()) + "]", shape_text(scenes));
  }
  const Tensor rows = scenes.to(at::kFloat).contiguous();
  const Tensor careful = uniform({rows.size(0)}, generator) < demonstrator.careful;
  const Tensor normals = normal({rows.size(0), detail::chance_size(world)}, generator);
  Tensor actions = at::empty({rows.size(0), world.horizon, world.joints});
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    const Scene scene = Scene::of(world, data_of<const float>(rows) + i * world.scene_size());
    const detail::Chance chance{data_of<const bool>(careful)[i],
                                data_of<const float>(normals) + i * normals.size(1)};
    detail::demonstrate(world, scene, demonstrator, chance,
                        actions.mutable_data_ptr<float>() + i * world.horizon * world.joints);
  }
  return actions;
}

}  // namespace reach

}  // namespace contraflow::toy
