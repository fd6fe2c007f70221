#pragma once

/// @file
/// The vocabulary of CLIP's byte-pair encoding, and the merges that make it.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <unicode/unistr.h>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/io/settings.hpp>

namespace contraflow {

namespace clip_bpe {

/// Ids of tokens by their text.
using Vocabulary = std::unordered_map<std::string, std::int64_t>;

inline constexpr const char* begin_text = "<|startoftext|>";
inline constexpr const char* end_text = "<|endoftext|>";
inline constexpr const char* word_end = "</w>";

// Every byte as a printable character, in the order of the published vocabulary: bytes that print
// stand for themselves and come first, the others are numbered from U+0100.
inline const std::vector<std::pair<std::uint8_t, std::string>>& byte_symbols() {
  static const auto symbols = [] {
    std::vector<std::pair<std::uint8_t, std::string>> printing, others;
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
      auto& list = prints ? printing : others;
      const auto character = static_cast<UChar32>(prints ? byte : 0x100 + others.size());
      std::string text;
      icu::UnicodeString(character).toUTF8String(text);
      list.emplace_back(static_cast<std::uint8_t>(byte), std::move(text));
    }
    printing.insert(printing.end(), others.begin(), others.end());
    return printing;
  }();
  return symbols;
}

// The two parts of a line of merges.
inline std::pair<std::string, std::string> parts_of(const std::string& source, std::size_t number,
                                                    const std::string& line) {
  const std::size_t space = line.find(' ');
  if (space == std::string::npos || space == 0 || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string::npos) {
    throw Error(source, "merges of two tokens with a space between them",
                "another line at number " + std::to_string(number + 1));
  }
  return {line.substr(0, space), line.substr(space + 1)};
}

inline Vocabulary vocabulary_of(const std::vector<std::string>& merges) {
  Vocabulary vocabulary;
  const auto add = [&](const std::string& token) {
    const auto id = static_cast<std::int64_t>(vocabulary.size());
    if (!vocabulary.emplace(token, id).second) throw Error("merges", "no token twice", "a repeat");
  };
  for (const auto& [byte, symbol] : byte_symbols()) add(symbol);
  for (const auto& [byte, symbol] : byte_symbols()) add(symbol + word_end);
  for (std::size_t number = 0; number < merges.size(); ++number) {
    const auto [left, right] = parts_of("merges", number, merges[number]);
    add(left + right);
  }
  add(begin_text);
  add(end_text);
  return vocabulary;
}

inline std::vector<std::string> read_merges(const std::filesystem::path& path) {
  const MappedFile file(path.string());
  if (file.size() > max_json_size) {
    throw Error(path.string(), "at most " + std::to_string(max_json_size) + " bytes",
                std::to_string(file.size()));
  }
  std::string_view rest(file.bytes(), file.size());
  std::vector<std::string> merges;
  while (!rest.empty()) {
    const std::size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !line.starts_with("#version")) merges.emplace_back(line);
  }
  return merges;
}

inline constexpr std::int64_t largest_id = std::numeric_limits<std::int32_t>::max();

inline Vocabulary read_vocabulary(const Settings& ids) {
  Vocabulary vocabulary;
  for (const auto& entry : ids.json().items()) {
    vocabulary.emplace(entry.key(), ids.integer(entry.key(), 0, largest_id));
  }
  return vocabulary;
}

}  // namespace clip_bpe

}  // namespace contraflow
