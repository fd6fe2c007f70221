#pragma once

/// @file
/// What SentencePiece takes on trust in a model, looked at before it is given one.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <contraflow/core/error.hpp>

namespace contraflow::unigram {

// Takes a number of Protocol Buffers from the front of a text.
inline std::uint64_t take_varint(std::string_view& text, const std::string& source) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && !text.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(text.front());
    text.remove_prefix(1);
    value |= std::uint64_t{byte & 0x7fU} << shift;
    if (byte < 0x80) return value;
  }
  throw Error(source, "a SentencePiece model", "a number that does not end");
}

// The fields of a message that hold bytes, by their numbers, in order.
inline std::vector<std::pair<std::uint64_t, std::string_view>> byte_fields(
    std::string_view message, const std::string& source) {
  enum Wire : std::uint64_t { varint = 0, eight = 1, bytes = 2, four = 5 };
  std::vector<std::pair<std::uint64_t, std::string_view>> fields;
  while (!message.empty()) {
    const std::uint64_t tag = take_varint(message, source), wire = tag & 7;
    std::uint64_t size = wire == eight ? 8 : wire == four ? 4 : 0;
    if (wire == varint) take_varint(message, source);
    if (wire == bytes) size = take_varint(message, source);
    const bool is_known = wire == varint || wire == eight || wire == bytes || wire == four;
    if (!is_known || size > message.size()) {
      throw Error(source, "a SentencePiece model", "a field that does not end");
    }
    if (wire == bytes) fields.emplace_back(tag >> 3, message.substr(0, size));
    message.remove_prefix(size);
  }
  return fields;
}

// A trie in a double array, as Darts-clone lays it out: 32 bits a node, equal ends of keys once.
class Trie {
 public:
  explicit Trie(std::string_view bytes)
      : units_(bytes.size() / sizeof(std::uint32_t)), keys_(units_.size(), unseen) {
    if (!units_.empty()) std::memcpy(units_.data(), bytes.data(), units_.size() * 4);
  }

  // Whether no text leads out of the array, in a circle, past more than `most` keys, or to a value
  // of `values` or more.
  bool is_sound(std::size_t values, int most) {
    const auto keys = keys_from(0, values, 0);
    return keys && *keys <= most;
  }

 private:
  static constexpr int unseen = -1, open = -2, longest = 1000;

  // Most keys on any way from a node, of which `depth` bytes came before; nothing if it is unsound.
  std::optional<int> keys_from(std::size_t node, std::size_t values, int depth) {
    if (node >= units_.size() || depth > longest || keys_[node] == open) return std::nullopt;
    if (keys_[node] != unseen) return keys_[node];
    keys_[node] = open;
    const std::size_t first = node ^ offset(units_[node]);
    const bool has_key = (units_[node] >> 8 & 1) != 0;
    if ((first | 0xff) >= units_.size()) return std::nullopt;
    if (has_key && value(units_[first]) >= values) return std::nullopt;
    int behind = 0;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      if (label(units_[first ^ byte]) != byte) continue;
      const auto keys = keys_from(first ^ byte, values, depth + 1);
      if (!keys) return std::nullopt;
      behind = std::max(behind, *keys);
    }
    keys_[node] = behind + (has_key ? 1 : 0);
    return keys_[node];
  }

  static std::uint32_t label(std::uint32_t unit) { return unit & (1U << 31 | 0xffU); }
  static std::uint32_t value(std::uint32_t unit) { return unit & ~(1U << 31); }
  static std::uint32_t offset(std::uint32_t unit) { return (unit >> 10) << ((unit >> 6) & 8U); }

  std::vector<std::uint32_t> units_;
  std::vector<int> keys_;
};

// Refuses a map of characters that SentencePiece would read past the end of: a length, a trie, and
// the texts that its values are places in, each with a zero byte behind it.
inline void expects_sound_characters(std::string_view map, const std::string& source) {
  constexpr int most = 32;  // keys that SentencePiece has room for
  const auto refuse = [&] { throw Error(source, "a map of characters that is whole", "another"); };
  if (map.empty()) return;
  std::uint32_t length = 0;
  if (map.size() < sizeof length) refuse();
  std::memcpy(&length, map.data(), sizeof length);
  map.remove_prefix(sizeof length);
  if (length >= map.size() || map.back() != '\0') refuse();
  if (!Trie(map.substr(0, length)).is_sound(map.size() - length, most)) refuse();
}

// Refuses a model whose maps of characters are not whole.
// @param model in Protocol Buffers
inline void expects_sound_model(std::string_view model, const std::string& source) {
  constexpr std::uint64_t normalizer = 3, denormalizer = 5, map = 2;
  for (const auto& [field, message] : byte_fields(model, source)) {
    if (field != normalizer && field != denormalizer) continue;
    for (const auto& [part, bytes] : byte_fields(message, source)) {
      if (part == map) expects_sound_characters(bytes, source);
    }
  }
}

}  // namespace contraflow::unigram
