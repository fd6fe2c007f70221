#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/toy/mixture.hpp>

/// @file
/// Small tasks: data to learn, and some of its modes to prefer.

namespace contraflow::toy {

/// Data, and a reward of 1 in some of its modes and 0 elsewhere.
///
/// A Reward itself: `task(x0)` scores samples.
struct Task {
  std::string name;            ///< in tables and names of files
  std::int64_t dimension = 2;  ///< of a sample
  /// `data(count, generator)`: clean samples [count, dimension].
  std::function<Tensor(std::int64_t count, Generator& generator)> data;
  std::vector<std::string> rewarded;  ///< names of the rewarded modes
  /// Which rewarded mode a sample lies in, as its number in `rewarded`, or -1: [B, D] to int64 [B].
  std::function<Tensor(const Tensor& x0)> mode_of;
  Tensor axes;       ///< [D, 2]: `x0 @ axes` are the coordinates of a picture
  double limit = 3;  ///< pictures show [-limit, limit] on both axes

  /// The reward.
  /// @par Shape
  /// @p x0 [B, D]; result [B]
  Tensor operator()(const Tensor& x0) const { return (mode_of(x0) >= 0).to(at::kFloat); }

  /// Share of each rewarded mode among the samples that are rewarded; all 0 where none is.
  std::vector<double> shares(const Tensor& x0) const {
    const Tensor mode = mode_of(x0);
    const auto total = static_cast<double>((mode >= 0).sum().item<std::int64_t>());
    std::vector<double> result;
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(rewarded.size()); ++i) {
      const auto own = static_cast<double>((mode == i).sum().item<std::int64_t>());
      result.push_back(total > 0 ? own / total : 0);
    }
    return result;
  }
};

namespace detail {

/// The nearest of some centres if it is within a radius, else -1.
inline std::function<Tensor(const Tensor&)> nearest_within(Tensor centres, double radius) {
  return [centres = std::move(centres), radius](const Tensor& x0) {
    const auto [distance, nearest] = at::cdist(wide(x0), centres).min(1);
    return at::where(distance <= radius, nearest, at::full_like(nearest, -1));
  };
}

/// The plane of the first two coordinates.
inline Tensor first_plane(std::int64_t dimension) { return at::eye(dimension).narrow(1, 0, 2); }

}  // namespace detail

/// Eight Gaussians in any even dimension: a ring in every plane of two coordinates.
///
/// In each plane the means lie on a circle of the radius 2; only the order in which the modes
/// follow each other on it differs, drawn from a fixed seed. So the spread of a coordinate, and the
/// distances of modes and samples per square root of the dimension, are the same in every
/// dimension: 2 is ring().
/// @throws Error if @p dimension is not even and above 0
inline Mixture ladder_mixture(std::int64_t dimension) {
  expects(dimension >= 2 && dimension % 2 == 0, "dimension", "an even number above 0", dimension);
  const Mixture plane = ring();
  Generator generator = seeded(7);
  std::vector<Tensor> planes{plane.means()};
  for (std::int64_t i = 1; i < dimension / 2; ++i) {
    planes.push_back(plane.means().index_select(0, permutation(8, generator)));
  }
  return Mixture(at::cat(planes, 1), plane.std());
}

/// Eight Gaussians of which modes 1 and 4 are rewarded, within 0.4 for every two coordinates
/// (`0.4 sqrt(dimension / 2)`).
/// @throws Error if @p dimension is not even and above 0
inline Task ladder(std::int64_t dimension) {
  const Mixture mixture = ladder_mixture(dimension);
  const Tensor centres = mixture.means().index_select(0, at::tensor({1, 4}, at::kLong));
  return {.name = "ladder_" + std::to_string(dimension),
          .dimension = dimension,
          .data = mixture,
          .rewarded = {"mode 1", "mode 4"},
          .mode_of = detail::nearest_within(centres, 0.4 * std::sqrt(double(dimension) / 2)),
          .axes = detail::first_plane(dimension),
          .limit = 3};
}

/// Eight Gaussians on a circle of the radius 2 with std 0.15; rewarded within 0.4 of the centres of
/// modes 1 and 4.
inline Task ring_task() {
  Task task = ladder(2);
  task.name = "ring";
  return task;
}

/// The ring in a plane that lies anyhow in a space of more dimensions; the reward looks at that
/// plane alone.
///
/// The other directions hold noise of the ring's std. So the modes and the reward of every
/// dimension are those of ring_task(), while of ladder() each coordinate has its say.
/// @throws Error if @p dimension is below 2
inline Task hidden_ring(std::int64_t dimension) {
  expects(dimension >= 2, "dimension", "at least 2", dimension);
  const Mixture plane = ring();
  Generator generator = seeded(7);
  const Tensor gaussian = normal({dimension, dimension}, generator).to(at::kDouble);
  const Tensor turn = std::get<0>(at::linalg_qr(gaussian)).to(at::kFloat);
  const Tensor axes = turn.narrow(1, 0, 2).contiguous();
  const Tensor centres = plane.means().index_select(0, at::tensor({1, 4}, at::kLong));
  const auto in_plane = detail::nearest_within(centres, 0.4);
  return {.name = "hidden_ring_" + std::to_string(dimension),
          .dimension = dimension,
          .data = Mixture(at::matmul(plane.means(), axes.t()), plane.std()),
          .rewarded = {"mode 1", "mode 4"},
          .mode_of = [=](const Tensor& x0) { return in_plane(at::matmul(wide(x0), axes)); },
          .axes = axes,
          .limit = 3};
}

/// Uniform on the eight black squares, of side 1, of a board of 4 x 4; two of them are rewarded.
inline Task checkerboard() {
  // Squares are counted from the lower left corner; (column, row) is black if column + row is even.
  const Tensor black =
      at::tensor({0, 0, 2, 0, 1, 1, 3, 1, 0, 2, 2, 2, 1, 3, 3, 3}, at::kFloat).view({8, 2});
  const auto data = [black](std::int64_t count, Generator& generator) {
    const Tensor square = integers(8, count, generator);
    return black.index_select(0, square) + uniform({count, 2}, generator) - 2;
  };
  const auto mode_of = [](const Tensor& x0) {
    const Tensor cell = at::floor(wide(x0) + 2);
    const Tensor column = cell.select(1, 0), row = cell.select(1, 1);
    Tensor mode = at::full({x0.size(0)}, -1, at::kLong);
    mode.masked_fill_((column == 3).logical_and(row == 1), 0);
    mode.masked_fill_((column == 0).logical_and(row == 2), 1);
    return mode;
  };
  return {.name = "checkerboard",
          .dimension = 2,
          .data = data,
          .rewarded = {"right square", "left square"},
          .mode_of = mode_of,
          .axes = detail::first_plane(2),
          .limit = 3};
}

/// Two interleaved half circles of the radius 1.5, of which the upper one is rewarded, within 0.25;
/// its quarters count as modes.
inline Task two_moons_to_one() {
  constexpr double radius = 1.5, half_shift = 0.75, lift = 0.4, std = 0.1;
  const auto data = [](std::int64_t count, Generator& generator) {
    const Tensor angle = uniform({count}, generator) * M_PI;
    const Tensor side = (uniform({count}, generator) < 0.5).to(at::kFloat) * 2 - 1;
    const Tensor x = side * (angle.cos() * radius - half_shift);
    const Tensor y = side * (angle.sin() * radius - lift);
    return at::stack({x, y}, 1) + std * normal({count, 2}, generator);
  };
  const auto mode_of = [](const Tensor& x0) {
    const Tensor x = wide(x0).select(1, 0) + half_shift, y = wide(x0).select(1, 1) + lift;
    const Tensor off = (at::hypot(x, y) - radius).abs();
    const Tensor quarter = at::floor(at::atan2(y, x) * (4 / M_PI)).to(at::kLong);
    const Tensor on_moon = (off <= 0.25).logical_and(quarter >= 0).logical_and(quarter <= 3);
    return at::where(on_moon, quarter, at::full_like(quarter, -1));
  };
  return {.name = "two_moons",
          .dimension = 2,
          .data = data,
          .rewarded = {"quarter 1", "quarter 2", "quarter 3", "quarter 4"},
          .mode_of = mode_of,
          .axes = detail::first_plane(2),
          .limit = 3};
}

}  // namespace contraflow::toy
