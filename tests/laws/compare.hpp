#pragma once

#include <cmath>
#include <limits>

#include <contraflow/core/random.hpp>

namespace laws {

using contraflow::Tensor;

/// Largest difference over the largest entry of @p expected, infinite where shapes differ or a
/// number is missing.
inline double relative_distance(const Tensor& got, const Tensor& expected) {
  if (got.sizes() != expected.sizes()) return std::numeric_limits<double>::infinity();
  if (got.numel() == 0) return 0;
  const Tensor reference = expected.detach().to(at::kDouble);
  const Tensor difference = (got.detach().to(at::kDouble) - reference).abs();
  if (!difference.isfinite().all().item<bool>()) return std::numeric_limits<double>::infinity();
  const auto size = reference.abs().max().item<double>();
  return difference.max().item<double>() / (size > 0 ? size : 1);
}

/// Whether the bits are equal.
inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.scalar_type() == b.scalar_type() && at::equal(a, b);
}

/// Normal numbers in float64 from a seed.
inline Tensor doubles(at::IntArrayRef shape, std::uint64_t seed = 1) {
  contraflow::Generator generator = contraflow::seeded(seed);
  return contraflow::normal(shape, generator, at::kDouble);
}

/// Normal numbers in float32 from a seed.
inline Tensor floats(at::IntArrayRef shape, std::uint64_t seed = 1) {
  contraflow::Generator generator = contraflow::seeded(seed);
  return contraflow::normal(shape, generator);
}

/// An order of @p count things, never the identity for count > 1.
inline Tensor shuffled(std::int64_t count, std::uint64_t seed = 1) {
  contraflow::Generator generator = contraflow::seeded(seed);
  const Tensor order = contraflow::permutation(count, generator);
  return at::equal(order, at::arange(count, at::kLong)) ? order.roll(1) : order;
}

}  // namespace laws
