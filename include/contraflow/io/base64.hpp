#pragma once

/// @file
/// Bytes as text: Base64 (RFC 4648, section 4).

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <contraflow/core/error.hpp>

namespace contraflow {

namespace detail {

inline constexpr std::string_view base64_digits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// Value of each character, 64 for those that are no digit.
inline constexpr std::array<std::uint8_t, 256> base64_values = [] {
  std::array<std::uint8_t, 256> values{};
  values.fill(64);
  for (std::size_t i = 0; i < 64; ++i) {
    values[static_cast<unsigned char>(base64_digits[i])] = static_cast<std::uint8_t>(i);
  }
  return values;
}();

}  // namespace detail

/// Bytes as Base64, padded to a multiple of four characters.
inline std::string encode_base64(std::span<const std::uint8_t> bytes) {
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k) group = group << 8 | (k < count ? bytes[i + k] : 0U);
    for (std::size_t k = 0; k < 4; ++k) {
      text += k <= count ? detail::base64_digits[group >> (18 - 6 * k) & 63] : '=';
    }
  }
  return text;
}

/// The bytes of Base64.
/// @param text padded, without white space
/// @throws Error for anything else
inline std::vector<std::uint8_t> decode_base64(std::string_view text) {
  const auto refuse = [&](const std::string& got) { throw Error("text", "Base64", got); };
  if (text.size() % 4 != 0) refuse(shown(text.size()) + " characters");
  std::size_t padding = 0;
  while (padding < 2 && text.size() > padding && text[text.size() - 1 - padding] == '=') ++padding;
  std::vector<std::uint8_t> bytes;
  bytes.reserve(text.size() / 4 * 3);
  for (std::size_t i = 0; i < text.size(); i += 4) {
    const std::size_t pads = i + 4 == text.size() ? padding : 0;
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      const auto character = static_cast<unsigned char>(text[i + k]);
      const std::uint32_t value = k < 4 - pads ? detail::base64_values[character] : 0U;
      if (value == 64) refuse("another character at " + shown(i + k));
      group = group << 6 | value;
    }
    for (std::size_t k = 0; k < 3 - pads; ++k) {
      bytes.push_back(static_cast<std::uint8_t>(group >> (16 - 8 * k)));
    }
  }
  return bytes;
}

}  // namespace contraflow
