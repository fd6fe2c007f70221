#pragma once

/// @file
/// Numbers in packs: what one instruction of the host handles.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <contraflow/core/host_device.hpp>

namespace contraflow {

#if defined(__AVX512F__)
/// Bytes of a pack on the processor that is compiled for.
inline constexpr std::size_t pack_bytes = 64;
#elif defined(__AVX__)
/// Bytes of a pack on the processor that is compiled for.
inline constexpr std::size_t pack_bytes = 32;
#else
/// Bytes of a pack on the processor that is compiled for.
inline constexpr std::size_t pack_bytes = 16;
#endif

namespace detail {
// nvcc refuses vectors in functions that it also compiles for the device: there a pack is a number.
template <class T>
struct PackOf {
#if defined(__CUDACC__)
  using type = T;
#else
  typedef T type __attribute__((vector_size(pack_bytes)));
#endif
};
}  // namespace detail

/// Numbers that one instruction handles. Compilers do not turn sums of floats into vectors by
/// themselves, since that changes the order of the additions; here the order is part of the source.
template <class T>
using Pack = typename detail::PackOf<T>::type;

/// Numbers in a pack.
template <class T>
inline constexpr std::int64_t pack_lanes = sizeof(Pack<T>) / sizeof(T);

/// The same bits, read as another type of the same size.
template <class To, class From>
CONTRAFLOW_HOST_DEVICE inline To with_bits_of(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

}  // namespace contraflow
