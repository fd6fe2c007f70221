// The planar arm: kinematics, collisions, what counts as success, and demonstrations.

#include <cmath>
#include <limits>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/combination.hpp>
#include <contraflow/toy/reach.hpp>
#include <contraflow/train/prompts.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "laws/reward.hpp"

namespace cf = contraflow;
namespace reach = contraflow::toy::reach;
using cf::Tensor;
using laws::check_error;
using reach::Point;

namespace {

double between(cf::Generator& generator, double low, double high) {
  return std::lerp(low, high, cf::uniform({1}, generator).item<double>());
}

std::vector<double> angles(std::int64_t joints, cf::Generator& generator) {
  std::vector<double> result;
  for (std::int64_t i = 0; i < joints; ++i) result.push_back(between(generator, -3, 3));
  return result;
}

double distance(Point a, Point b) { return reach::norm(a - b); }

Point turned(Point point, double turn) {
  return {std::cos(turn) * point.x - std::sin(turn) * point.y,
          std::sin(turn) * point.x + std::cos(turn) * point.y};
}

/// An arm of two joints, stretched to the right, whose goal is where its hand is.
reach::Scene stretched() { return {{0, 0}, {1, 0}, {}}; }

reach::World small_world() { return {.obstacles = 0, .horizon = 2}; }

reach::Outcome carried_out(const reach::World& world, const reach::Scene& scene,
                           const std::vector<float>& actions) {
  return reach::simulate(world, scene, actions.data());
}

/// Scenes, and demonstrations of them.
struct Drawn {
  Tensor scenes, actions;
};
Drawn drawn(const reach::World& world, std::int64_t count, const reach::Demonstrator& by = {}) {
  cf::Generator generator = cf::seeded(5);
  const Tensor scenes = reach::draw_scenes(world, count, generator);
  return {scenes, reach::demonstrations(world, scenes, by, generator)};
}

double success(const reach::World& world, const Drawn& drawn) {
  return reach::Success{world}(drawn.actions, drawn.scenes).mean().item<double>();
}

}  // namespace

TEST_CASE("an arm of two links is where the closed form puts it") {
  cf::Generator generator = cf::seeded(1);
  for (int i = 0; i < 50; ++i) {
    const std::vector<double> q = angles(2, generator);
    const std::vector<Point> places = reach::places_of(q);
    REQUIRE(places.size() == 3);
    CHECK(distance(places[0], {0, 0}) == 0);
    CHECK(distance(places[1], {0.5 * std::cos(q[0]), 0.5 * std::sin(q[0])}) < 1e-12);
    const Point hand{0.5 * (std::cos(q[0]) + std::cos(q[0] + q[1])),
                     0.5 * (std::sin(q[0]) + std::sin(q[0] + q[1]))};
    CHECK(distance(places[2], hand) < 1e-12);
    // The law of cosines: the second angle alone decides how far the hand is.
    CHECK(std::abs(reach::dot(hand, hand) - 0.5 * (1 + std::cos(q[1]))) < 1e-12);
  }
}

TEST_CASE("links keep their lengths in every pose of a motion") {
  for (const std::int64_t joints : {1, 2, 7}) {
    const reach::World world{.joints = joints};
    const auto [scenes, actions] = drawn(world, 5);
    for (std::int64_t i = 0; i < 5; ++i) {
      int poses = 0;
      const auto* action = cf::data_of<const float>(actions[i]);
      reach::simulate(
          world, reach::Scene::of(world, cf::data_of<const float>(scenes[i])), action,
          [&](const std::vector<Point>& places) {
            ++poses;
            REQUIRE(std::ssize(places) == joints + 1);
            for (std::size_t k = 0; k + 1 < places.size(); ++k) {
              CHECK(std::abs(distance(places[k], places[k + 1]) - 1.0 / double(joints)) < 1e-12);
            }
          });
      CHECK(poses == world.horizon + 1);
    }
  }
}

TEST_CASE("the clearance of a segment is the least distance of its points") {
  cf::Generator generator = cf::seeded(2);
  constexpr int samples = 2000;
  for (int i = 0; i < 100; ++i) {
    const auto point = [&] { return Point{between(generator, -1, 1), between(generator, -1, 1)}; };
    const Point from = point(), to = point();
    const reach::Disc disc{point(), between(generator, 0.05, 0.5)};
    double least = std::numeric_limits<double>::infinity();
    for (int k = 0; k <= samples; ++k) {
      const Point on_segment = from + double(k) / samples * (to - from);
      least = std::min(least, distance(on_segment, disc.centre) - disc.radius);
    }
    const double exact = reach::clearance(from, to, disc);
    CHECK(exact <= least + 1e-12);
    CHECK(exact > least - distance(from, to) / samples);
  }
  // A segment without length is a point.
  CHECK(reach::clearance({1, 0}, {1, 0}, {{0, 0}, 0.25}) == 0.75);
}

TEST_CASE("a scene that is turned as a whole has the same outcome") {
  for (const std::int64_t joints : {2, 7}) {
    const reach::World world{.joints = joints};
    const auto [scenes, actions] = drawn(world, 60);
    for (std::int64_t i = 0; i < scenes.size(0); ++i) {
      const auto* action = cf::data_of<const float>(actions[i]);
      reach::Scene scene = reach::Scene::of(world, cf::data_of<const float>(scenes[i]));
      const reach::Outcome before = reach::simulate(world, scene, action);
      const double turn = 0.1 * double(i) + 0.7;
      scene.angles[0] += turn;
      scene.goal = turned(scene.goal, turn);
      for (reach::Disc& disc : scene.obstacles) disc.centre = turned(disc.centre, turn);
      const reach::Outcome after = reach::simulate(world, scene, action);
      CHECK(std::abs(before.distance - after.distance) < 1e-9);
      CHECK(before.collides == after.collides);
      CHECK(before.exceeds == after.exceeds);
      CHECK(before.reaches == after.reaches);
    }
  }
}

TEST_CASE("actions are speeds: constant ones turn a joint by their sum of strides") {
  const reach::World world{.joints = 1, .obstacles = 0, .horizon = 4};
  const double angle = 4 * 1.5 * world.stride();
  const reach::Scene scene{{0.3}, {std::cos(0.3 + angle), std::sin(0.3 + angle)}, {}};
  const reach::Outcome outcome = carried_out(world, scene, {1.5F, 1.5F, 1.5F, 1.5F});
  CHECK(outcome.distance < 1e-9);
  CHECK(outcome.reaches);
}

TEST_CASE("reaching is to be near the goal at the end, free, and within limits") {
  const reach::World world = small_world();
  const std::vector<float> still(4);
  CHECK(carried_out(world, stretched(), still).reaches);

  reach::Scene scene = stretched();
  scene.goal = {1 - 1.01 * world.tolerance, 0};
  CHECK_FALSE(carried_out(world, scene, still).reaches);
  scene.goal = {1 - 0.99 * world.tolerance, 0};
  CHECK(carried_out(world, scene, still).reaches);

  // There and back again: the end is right, the way is not.
  const std::vector<float> detour{2, 0, -2, 0};
  CHECK(carried_out(world, stretched(), detour).reaches);
  scene = stretched();
  const double turn = 2 * world.stride();
  scene.obstacles = {{{0.9 * std::cos(turn), 0.9 * std::sin(turn)}, 0.05}};
  CHECK(carried_out(world, scene, detour).collides);
  CHECK_FALSE(carried_out(world, scene, detour).reaches);
  CHECK(carried_out(world, scene, still).reaches);

  const auto speed = float(world.speed_limit);
  CHECK_FALSE(carried_out(world, stretched(), {speed, 0, -speed, 0}).exceeds);
  CHECK(carried_out(world, stretched(), {1.01F * speed, 0, -1.01F * speed, 0}).exceeds);
  scene = stretched();
  scene.angles[1] = world.angle_limit - 0.5 * world.stride();
  CHECK(carried_out(world, scene, {0, 1, 0, -1}).exceeds);
  CHECK_FALSE(carried_out(world, scene, {1, 0.4F, 1, 0}).exceeds);
  const float missing = std::numeric_limits<float>::quiet_NaN();
  CHECK(carried_out(world, stretched(), {missing, 0, 0, 0}).exceeds);
  CHECK_FALSE(carried_out(world, stretched(), {missing, 0, 0, 0}).reaches);
}

TEST_CASE("a link does not jump over what lies within a step") {
  const reach::World world{.joints = 1, .obstacles = 1, .horizon = 1};
  const double turn = 4 * world.stride();
  const reach::Scene scene{
      {0}, {std::cos(turn), std::sin(turn)}, {{{std::cos(turn / 2), std::sin(turn / 2)}, 0.05}}};
  const reach::Outcome outcome = carried_out(world, scene, {4});
  CHECK(outcome.distance < 1e-9);
  CHECK(outcome.collides);
}

TEST_CASE("a fast hand does not jump over a small disc, wherever it lies") {
  const reach::World world{.joints = 2, .obstacles = 1, .horizon = 1};
  const auto speed = float(world.speed_limit);
  const double turn = world.speed_limit * world.stride();
  for (const double share : {0.1, 0.3, 0.375, 0.6, 0.625, 0.85}) {
    INFO(share);
    const Point hand = reach::places_of(std::vector{share * turn, share * turn}).back();
    const reach::Scene scene{{0, 0}, {1, 0}, {{hand, 0.05}}};
    CHECK(carried_out(world, scene, {speed, speed}).collides);
  }
}

TEST_CASE("success is 0 or 1, each sample by itself") {
  for (const std::int64_t joints : {2, 7}) {
    const reach::World world{.joints = joints};
    const auto [scenes, actions] = drawn(world, 40);
    laws::reward(reach::Success{world}, actions, scenes);
    const Tensor scores = reach::Success{world}(actions, scenes);
    CHECK(((scores == 0).logical_or(scores == 1)).all().item<bool>());
    CHECK(scores.min().item<double>() == 0);
    CHECK(scores.max().item<double>() == 1);
  }
}

TEST_CASE("success is told the scenes of prompts that are scenes") {
  const reach::World world;
  const auto [scenes, actions] = drawn(world, 12);
  const cf::PromptRows prompts(scenes);
  const Tensor ids = laws::shuffled(12);
  const auto bag = cf::as_rewards(reach::Success{world});
  const Tensor got = bag.score(actions.index_select(0, ids), cf::reference_of(prompts, ids)).scores;
  CHECK(at::equal(got[0], reach::Success{world}(actions, scenes).index_select(0, ids)));
  CHECK_FALSE(at::equal(got[0], bag.score(actions, scenes).scores[0]));
}

TEST_CASE("scenes start free, and their goals are free and can be reached") {
  for (const std::int64_t joints : {2, 7}) {
    const reach::World world{.joints = joints};
    const Tensor scenes = drawn(world, 300).scenes;
    CHECK(scenes.sizes() == at::IntArrayRef({300, joints + 8}));
    for (std::int64_t i = 0; i < scenes.size(0); ++i) {
      const auto scene = reach::Scene::of(world, cf::data_of<const float>(scenes[i]));
      CHECK(reach::clearance(reach::places_of(scene.angles), scene.obstacles) > 0);
      CHECK(reach::norm(scene.goal) < 1);
      for (const reach::Disc& disc : scene.obstacles) {
        CHECK(distance(disc.centre, scene.goal) > disc.radius + world.tolerance);
      }
    }
    // Who tries again and again, carefully, gets everywhere.
    const Tensor again = scenes.repeat({64, 1});
    cf::Generator generator = cf::seeded(9);
    const reach::Demonstrator careful{.careful = 1, .aim_error = 0};
    const Tensor actions = reach::demonstrations(world, again, careful, generator);
    const Tensor reached = reach::Success{world}(actions, again).view({64, 300}).amax(0);
    CHECK(reached.mean().item<double>() > 0.98);
  }
}

TEST_CASE("every fault of a demonstrator costs success") {
  const reach::World world;
  const auto reached = [&](const reach::Demonstrator& by) {
    return success(world, drawn(world, 1500, by));
  };
  const double best = reached({.careful = 1, .aim_error = 0, .tremble = 0});
  const double heedless = reached({.careful = 0, .aim_error = 0, .tremble = 0});
  const double beside = reached({.careful = 1, .aim_error = 0.08, .tremble = 0});
  const double trembling = reached({.careful = 1, .aim_error = 0, .tremble = 0.6});
  CHECK(best > 0.75);
  CHECK(heedless < best - 0.1);
  CHECK(beside < best - 0.1);
  CHECK(trembling < best - 0.1);
  // Without obstacles, aim and hand steady, nothing keeps the hand from its goal.
  const reach::World empty{.obstacles = 0};
  CHECK(success(empty, drawn(empty, 500, {.aim_error = 0, .tremble = 0})) > 0.99);
}

TEST_CASE("scenes and demonstrations are equal for equal seeds") {
  const reach::World world{.joints = 3};
  const Drawn one = drawn(world, 20), again = drawn(world, 20);
  CHECK(laws::same_bits(one.scenes, again.scenes));
  CHECK(laws::same_bits(one.actions, again.actions));
  cf::Generator other = cf::seeded(6);
  CHECK_FALSE(at::equal(one.scenes, reach::draw_scenes(world, 20, other)));
}

TEST_CASE("what does not fit is refused") {
  const reach::World world;
  const Drawn four = drawn(world, 4);
  const Tensor &scenes = four.scenes, &actions = four.actions;
  const reach::Success reward{world};
  check_error([&] { reward(actions.flatten(1), scenes); }, "x0", "[B, 8, 2]");
  check_error([&] { reward(actions.narrow(1, 0, 7), scenes); }, "x0", "[B, 8, 2]");
  check_error([&] { reward(actions, scenes.narrow(0, 0, 3)); }, "scenes", "[4, 10]");
  cf::Generator generator = cf::seeded(1);
  const auto draw = [&](const reach::World& bad) { reach::draw_scenes(bad, 1, generator); };
  check_error([&] { draw({.joints = 0}); }, "joints", "at least 1");
  check_error([&] { draw({.obstacles = -1}); }, "obstacles", "at least 0");
  check_error([&] { draw({.horizon = 0}); }, "horizon", "at least 1");
  check_error([&] { draw({.tolerance = 0}); }, "tolerance", "above 0");
  check_error([&] { draw({.angle_limit = 0}); }, "angle_limit", "above 0");
  check_error([&] { draw({.speed_limit = 0}); }, "speed_limit", "above 0");
  check_error([&] { draw({.tolerance = 1e-9}); }, "world", "none");
  check_error([&] { reach::draw_scenes(world, 0, generator); }, "count", "at least 1");
  const auto by = [&](const reach::Demonstrator& bad) {
    reach::demonstrations(world, scenes, bad, generator);
  };
  check_error([&] { by({.careful = 1.5}); }, "careful", "[0, 1]");
  check_error([&] { by({.aim_error = -1}); }, "aim_error", "at least 0");
  check_error([&] { by({.tremble = -1}); }, "tremble", "at least 0");
  check_error([&] { reach::demonstrations(world, scenes.narrow(1, 1, 9), {}, generator); },
              "scenes", "[B, 10]");
}
