#pragma once

/// @file
/// Whether bytes are the same bytes.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace contraflow {

/// A number of 64 bits that tells bytes from others: for accidents, not against somebody who means
/// to deceive (FNV-1a by Fowler, Noll and Vo, over words of eight bytes and the length).
inline std::uint64_t checksum(const void* data, std::size_t size) {
  constexpr std::uint64_t prime = 0x100000001b3ULL;
  const auto* bytes = static_cast<const char*>(data);
  std::uint64_t sum = 0xcbf29ce484222325ULL ^ size;
  for (std::size_t i = 0; i < size; i += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + i, std::min(sizeof(word), size - i));
    sum = (sum ^ word) * prime;
  }
  // The last word's upper bits reach the lower ones of the sum.
  return sum ^ (sum >> 32U);
}

}  // namespace contraflow
