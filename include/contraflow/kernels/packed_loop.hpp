#pragma once

/// @file
/// What the host kernels share: the parallel loop they are given, and what they do with packs.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <contraflow/core/pack.hpp>

namespace contraflow::kernels {

/// Runs a loop on the calling thread: the least that a kernel asks of a parallel loop.
///
/// A parallel loop has `threads()`, how many it uses at most, and `loop(count, body)`, which calls
/// `body(begin, end)` on ranges that together cover [0, count) once and returns when all are done.
struct SerialLoop {
  /// One.
  static constexpr std::int64_t threads() { return 1; }
  /// The whole range at once.
  template <class Body>
  void operator()(std::int64_t count, Body&& body) const {
    if (count > 0) body(std::int64_t{0}, count);
  }
};

namespace detail {

template <class T>
inline constexpr std::int64_t lanes = pack_lanes<T>;

template <class T>
using Lanes = std::array<T, static_cast<std::size_t>(lanes<T>)>;

template <class T>
Lanes<T> lanes_of(const Pack<T>& pack) {
  Lanes<T> values;
  std::memcpy(values.data(), &pack, sizeof(pack));
  return values;
}

template <class T, class V>
Pack<T> load(const V* source) {
  Pack<T> pack;
  if constexpr (std::is_same_v<T, V>) {
    std::memcpy(&pack, source, sizeof(pack));
  } else {
    Lanes<T> widened;
    for (T& value : widened) value = static_cast<T>(*source++);
    std::memcpy(&pack, widened.data(), sizeof(pack));
  }
  return pack;
}

template <class T, class V>
void store(V* target, const Pack<T>& pack) {
  if constexpr (std::is_same_v<T, V>) {
    std::memcpy(target, &pack, sizeof(pack));
  } else {
    for (const T value : lanes_of<T>(pack)) *target++ = static_cast<V>(value);
  }
}

using Floats = Pack<float>;
using FloatBits = Pack<std::uint32_t>;
inline constexpr std::int64_t float_lanes = lanes<float>;

// To whole packs, and to blocks of four, of which a matrix is transposed.
constexpr std::int64_t rounded_up(std::int64_t count) {
  constexpr std::int64_t unit = std::max<std::int64_t>(float_lanes, 4);
  return (count + unit - 1) / unit * unit;
}

inline Floats broadcast(float value) { return Floats{} + value; }

// How much of a pack there is: all of it, known while compiling, or the few numbers at the end of a
// row. What is missing reads as zero and is not written.
struct Whole {};
struct Part {
  std::int64_t count;
};

inline Floats load(const float* source, Whole) { return load<float>(source); }
inline Floats load(const float* source, Part part) {
  Lanes<float> values{};
  std::copy_n(source, part.count, values.begin());
  return load<float>(values.data());
}
inline void store(float* target, const Floats& pack, Whole) { store<float>(target, pack); }
inline void store(float* target, const Floats& pack, Part part) {
  const Lanes<float> values = lanes_of<float>(pack);
  std::copy_n(values.begin(), part.count, target);
}
inline Floats without_rest(const Floats& pack, Whole) { return pack; }
inline Floats without_rest(const Floats& pack, Part part) {
  Lanes<float> values{};
  std::copy_n(lanes_of<float>(pack).begin(), part.count, values.begin());
  return load<float>(values.data());
}

// Calls body(first, width) for the packs of [begin, end). Always inlined, for what a body refers to
// would otherwise be read from memory again behind every store.
template <class Body>
[[gnu::always_inline]] inline void each_pack(std::int64_t begin, std::int64_t end, Body&& body) {
  std::int64_t i = begin;
  for (; i + float_lanes <= end; i += float_lanes) body(i, Whole{});
  if (i < end) body(i, Part{end - i});
}

template <std::size_t bytes>
struct FloatsOf {
  typedef float type __attribute__((vector_size(bytes)));
};

// The sum of a pack, halves first: as few dependent additions as there can be.
template <class P>
float sum_of(const P& pack) {
  if constexpr (sizeof(P) > sizeof(float[4])) {
    typename FloatsOf<sizeof(P) / 2>::type halves[2];
    std::memcpy(halves, &pack, sizeof(pack));
    return sum_of(halves[0] + halves[1]);
  } else {
    std::array<float, sizeof(P) / sizeof(float)> values;
    std::memcpy(values.data(), &pack, sizeof(pack));
    if constexpr (values.size() == 1) return values[0];
    return (values[0] + values[2]) + (values[1] + values[3]);
  }
}

}  // namespace detail

}  // namespace contraflow::kernels
