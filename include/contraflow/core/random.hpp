#pragma once

/// @file
/// Random numbers that belong to names, and every way in which they are drawn.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>

#include <contraflow/core/parallel.hpp>
#include <contraflow/core/philox_rows.hpp>
#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// A seed for an independent stream, from a seed and the number of the stream (SplitMix64).
///
/// So that one number a run decides everything, and what one part draws does not shift another.
inline std::uint64_t stream_seed(std::uint64_t seed, std::uint64_t stream) {
  std::uint64_t z = seed + 0x9E3779B97F4A7C15ULL * (stream + 1);
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31U);
}

/// What a stream of random numbers is for: each purpose has a stream of its own, so that drawing
/// more for one leaves the others as they were.
///
/// Their values begin where nobody counts to, so that none is the number of another stream.
enum class Purpose : std::uint64_t {
  prompts = 1ULL << 63U,  ///< which prompts an epoch has
  noise,                  ///< samples at time 1
  solver,                 ///< noise of a stochastic solver
  order,                  ///< of samples in training
  times,                  ///< at which samples are noised for training
  training_noise,         ///< with which samples are noised for training
  transitions,            ///< which recorded transitions are trained on
  data,                   ///< clean samples of pre-training
  evaluation,             ///< everything of an evaluation
  sample,                 ///< samples that a user asks for
};

/// A stream of random numbers that belong to places. Every function that draws takes one; none
/// uses a global.
///
/// The number at (row, column) of draw d is a function of the key of the stream, the name of the
/// row, d and the column, and of nothing else: not of the other rows or their order, of threads,
/// device, dtype or compiler. The first dimension of what is drawn counts the rows. Without names
/// row i is named i; with `rows` a batch is drawn in any order or in parts, and every sample keeps
/// its numbers.
///
/// A value: a copy goes on from where the original was, independently. To be drawn from by one
/// thread at a time.
class Generator {
 public:
  /// The stream of a key, before its first draw.
  explicit Generator(std::uint64_t key) : key_(key) {}

  /// Another stream, independent of this one and of those of other numbers: draws from 0, rows
  /// without names.
  ///
  /// Its key is `stream_seed(key, number)`: mixed by a function in which every bit of key and
  /// number changes half of the bits. Among n streams, however they are made by chains of numbers,
  /// two are the same with probability n^2 / 2^65.
  Generator stream(std::uint64_t number) const { return Generator(stream_seed(key_, number)); }
  /// The stream of a purpose; of stream @p number of it.
  Generator stream(Purpose purpose, std::uint64_t number = 0) const {
    return stream(static_cast<std::uint64_t>(purpose)).stream(number);
  }
  /// The same stream from its first draw on, with names for its rows: row i of whatever is drawn
  /// is that of the name @p names[i].
  /// @par Shape
  /// @p names int64 [B] on any device; read once
  /// @throws Error if they are not
  Generator rows(const Tensor& names) const {
    if (!names.defined() || names.dim() != 1) {
      throw Error("names", "one name a row, shape [B]", shape_text(names));
    }
    expects_dtype(names, at::kLong, "names");
    Generator named(key_);
    // A copy: who changes a tensor of names later does not rename rows.
    named.names_ = at::empty({names.size(0)}, at::kLong).copy_(names);
    return named;
  }

  /// The key that decides the stream.
  std::uint64_t key() const { return key_; }
  /// How many draws were made.
  std::uint64_t draws() const { return draws_; }
  /// Names of the rows, int64 [B] on the CPU; undefined where row i is named i.
  const Tensor& names() const { return names_; }

  /// Makes a draw of @p rows rows: for functions that draw. The names are those of this generator,
  /// which has to outlive it.
  /// @throws Error if there are names and not as many, or after 2^32 draws
  philox::Draw next(std::int64_t rows) {
    if (names_.defined() && names_.size(0) != rows) {
      throw Error("shape", "a row for each of " + shown(names_.size(0)) + " names",
                  shown(rows) + " rows");
    }
    expects(draws_ >> 32U == 0, "generator", "fewer than 2^32 draws of one stream", draws_);
    const auto number = static_cast<std::uint32_t>(draws_++);
    return {key_, number, names_.defined() ? data_of<const std::int64_t>(names_) : nullptr};
  }

 private:
  std::uint64_t key_;
  std::uint64_t draws_ = 0;
  Tensor names_;
};

/// The stream of a seed.
inline Generator seeded(std::uint64_t seed) { return Generator(stream_seed(seed, 0)); }

/// Hands every number of a draw of the shape @p shape to @p sink, on the threads of torch: for
/// functions that make something of the numbers at once.
/// @tparam Distribution philox::NormalNumbers or philox::UniformNumbers
/// @param shape the first dimension counts the rows; without dimensions there is one row
/// @param generator one draw is made
/// @param sink see philox::Written
/// @throws Error if the generator has names for another number of rows
template <class Distribution, class Sink>
void fill_rows(at::IntArrayRef shape, Generator& generator, const Sink& sink) {
  // Some ten microseconds of packs are worth a thread.
  constexpr TorchLoop loop{.grain = 256};
  const std::int64_t rows = shape.empty() ? 1 : shape[0];
  const philox::Draw draw = generator.next(rows);
  const std::int64_t count = c10::multiply_integers(shape);
  if (count > 0) philox::fill_rows<Distribution>(draw, rows, count / rows, sink, loop);
}

namespace detail {

template <class Distribution>
Tensor drawn(at::IntArrayRef shape, Generator& generator) {
  Tensor result = at::empty(shape, at::kFloat);
  fill_rows<Distribution>(shape, generator, philox::Written{result.mutable_data_ptr<float>()});
  return result;
}

// 64 random bits of each row: the first two words of its first block.
inline std::vector<std::uint64_t> row_bits(std::int64_t count, Generator& generator) {
  expects(count >= 0, "count", "at least 0", count);
  const philox::Draw draw = generator.next(count);
  std::vector<std::uint64_t> bits(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const philox::Block block = philox::block_of(draw, draw.name(i), 0);
    bits[static_cast<std::size_t>(i)] = block.words[0] | std::uint64_t{block.words[1]} << 32U;
  }
  return bits;
}

// The upper 64 bits of a product of 128.
inline std::uint64_t upper_product(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t low = 0xffffffffU;
  const std::uint64_t middle = (a >> 32U) * (b & low) + ((a & low) * (b & low) >> 32U);
  const std::uint64_t other = (a & low) * (b >> 32U) + (middle & low);
  return (a >> 32U) * (b >> 32U) + (middle >> 32U) + (other >> 32U);
}

}  // namespace detail

/// Standard normal numbers of the shape @p shape, up to 6.66 in magnitude.
///
/// Drawn on the CPU in float32, then moved: one seed gives the same noise whatever the dtype and
/// the device of the model; in float64 they are the same numbers, widened.
/// @param shape of the result; the first dimension counts the rows
/// @param generator one draw is made
/// @param options dtype and device of the result; float32 on the CPU by default
/// @throws Error if the generator has names for another number of rows
inline Tensor normal(at::IntArrayRef shape, Generator& generator,
                     const at::TensorOptions& options = {}) {
  const Tensor numbers = detail::drawn<philox::NormalNumbers>(shape, generator);
  const auto dtype = options.has_dtype() ? c10::typeMetaToScalarType(options.dtype()) : at::kFloat;
  return on_device(numbers, options.device(), dtype);
}

/// Standard normal numbers of the shape, dtype and device of @p x.
inline Tensor normal_like(const Tensor& x, Generator& generator) {
  return normal(x.sizes(), generator, x.options());
}

/// Uniform numbers in [0, 1) of the shape @p shape, float32 on the CPU: multiples of 2^-24.
/// @param shape of the result; the first dimension counts the rows
/// @param generator one draw is made
/// @throws Error if the generator has names for another number of rows
inline Tensor uniform(at::IntArrayRef shape, Generator& generator) {
  return detail::drawn<philox::UniformNumbers>(shape, generator);
}

/// A random permutation of 0 ... @p count - 1, int64: the rows in the order of a random key of
/// each.
///
/// So with names the order of the named is the same however they came: `names[permutation]` does
/// not depend on the order of the names.
/// @throws Error if the generator has names for another number of rows
inline Tensor permutation(std::int64_t count, Generator& generator) {
  const std::vector<std::uint64_t> keys = detail::row_bits(count, generator);
  Tensor order = at::arange(count, at::kLong);
  auto* first = order.mutable_data_ptr<std::int64_t>();
  std::stable_sort(first, first + count, [&](std::int64_t a, std::int64_t b) {
    return keys[static_cast<std::size_t>(a)] < keys[static_cast<std::size_t>(b)];
  });
  return order;
}

/// Random integers in [0, @p limit), int64 [@p count]; a row each.
///
/// The upper half of 64 random bits times the limit: one integer is more likely than another by
/// 2^-64 at most.
/// @throws Error if @p limit is below 1, or the generator has names for another number of rows
inline Tensor integers(std::int64_t limit, std::int64_t count, Generator& generator) {
  expects(limit >= 1, "limit", "at least 1", limit);
  const std::vector<std::uint64_t> bits = detail::row_bits(count, generator);
  Tensor result = at::empty({count}, at::kLong);
  auto* values = result.mutable_data_ptr<std::int64_t>();
  std::transform(bits.begin(), bits.end(), values, [limit](std::uint64_t row) {
    return static_cast<std::int64_t>(detail::upper_product(row, static_cast<std::uint64_t>(limit)));
  });
  return result;
}

/// A generator of LibTorch on the CPU, seeded by a draw: for functions of LibTorch, which draw in
/// an order of theirs. It knows no rows.
inline at::Generator torch_generator(Generator& generator) {
  const Tensor& names = generator.names();
  const philox::Draw draw = generator.next(names.defined() ? names.size(0) : 1);
  const philox::Block block = philox::block_of(draw, 0, 0);
  return at::detail::createCPUGenerator(block.words[0] | std::uint64_t{block.words[1]} << 32U);
}

}  // namespace contraflow
