#pragma once

/// @file
/// Scenes of the arm that can be solved, and demonstrations of them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include <contraflow/core/random.hpp>
#include <contraflow/core/tensor.hpp>
#include <contraflow/toy/reach_arm.hpp>

namespace contraflow::toy::reach {

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

}  // namespace contraflow::toy::reach
