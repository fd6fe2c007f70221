#pragma once

/// @file
/// Geometry of the plane, for an arm and its obstacles.

#include <algorithm>
#include <cmath>

#include <contraflow/core/error.hpp>

namespace contraflow::toy::reach {

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

}  // namespace contraflow::toy::reach
