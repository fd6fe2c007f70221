#pragma once

/// @file
/// Generators, and every way in which random numbers are drawn.

#include <cstdint>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// A source of random numbers. Every function that draws takes one; none uses a global.
using Generator = at::Generator;

/// A CPU generator that starts from @p seed.
inline Generator seeded(std::uint64_t seed) { return at::detail::createCPUGenerator(seed); }

/// A seed for an independent stream, from a seed and the number of the stream (SplitMix64).
///
/// So that one number a run decides everything, and what one part draws does not shift another.
inline std::uint64_t stream_seed(std::uint64_t seed, std::uint64_t stream) {
  std::uint64_t z = seed + 0x9E3779B97F4A7C15ULL * (stream + 1);
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31U);
}

/// Standard normal numbers of the shape @p shape.
///
/// Drawn on the generator's device in float32, then moved: one seed gives the same noise whatever
/// the dtype and the device of the model.
/// @param shape of the result
/// @param generator advanced by as many numbers
/// @param options dtype and device of the result; float32 on the CPU by default
inline Tensor normal(at::IntArrayRef shape, Generator& generator,
                     const at::TensorOptions& options = {}) {
  return at::randn(shape, generator, at::device(generator.device()).dtype(at::kFloat)).to(options);
}

/// Standard normal numbers of the shape, dtype and device of @p x.
inline Tensor normal_like(const Tensor& x, Generator& generator) {
  return normal(x.sizes(), generator, x.options());
}

/// Uniform numbers in [0, 1) of the shape @p shape, float32.
inline Tensor uniform(at::IntArrayRef shape, Generator& generator) {
  return at::rand(shape, generator, at::device(generator.device()).dtype(at::kFloat));
}

/// A random permutation of 0 ... @p count - 1, int64.
inline Tensor permutation(std::int64_t count, Generator& generator) {
  return at::randperm(count, generator, at::device(generator.device()).dtype(at::kLong));
}

}  // namespace contraflow
