#pragma once

/// @file
/// JSON of files and replies that are not trusted.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>

namespace contraflow {

/// Text of a file in an error: quoted, short and in plain ASCII, whatever the file holds.
inline std::string excerpt(std::string_view text) {
  constexpr std::size_t longest = 80;
  std::string result = "\"";
  for (const char c : text.substr(0, longest)) {
    const bool plain = c >= 0x20 && c < 0x7f;
    result += plain ? c : '?';
  }
  return result + (text.size() > longest ? "...\"" : "\"");
}

/// Most bytes of a document.
inline constexpr std::uint64_t max_json_size = std::uint64_t{64} << 20;
/// Most brackets within brackets.
inline constexpr int max_json_depth = 64;

/// A document that is not trusted: no deep nesting, no repeated keys, no numbers that do not fit.
/// @param name what errors call it
/// @param text the document
/// @throws Error naming it, for anything else
inline nlohmann::json parse_json(const std::string& name, std::string_view text) {
  using Event = nlohmann::json::parse_event_t;
  if (text.size() > max_json_size) {
    throw Error(name, "at most " + std::to_string(max_json_size) + " bytes of JSON",
                std::to_string(text.size()));
  }
  // The parser would take a zero byte for the end of the text and leave the rest unread.
  if (text.find('\0') != std::string_view::npos) throw Error(name, "JSON", "a zero byte in it");
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, Event event, nlohmann::json& parsed) {
    if (depth >= max_json_depth) {
      throw Error(name, "JSON nested at most " + std::to_string(max_json_depth) + " deep",
                  "deeper nesting");
    }
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second) {
      throw Error(name, "every key once", excerpt(parsed.get<std::string>()) + " twice");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), check);
  } catch (const nlohmann::json::parse_error& error) {
    throw Error(name, "JSON", "invalid JSON or UTF-8 at byte " + std::to_string(error.byte));
  } catch (const nlohmann::json::exception&) {
    throw Error(name, "JSON", "a number out of range");
  }
}

/// The document in a file, see parse_json().
/// @throws Error naming the file
inline nlohmann::json read_json(const std::filesystem::path& path) {
  const MappedFile file(path.string());
  return parse_json(path.string(), {file.bytes(), file.size()});
}

/// Writes a document as people read it, which appears under its name only when it is complete.
/// @throws Error naming the file that cannot be written
inline void write_json(const std::filesystem::path& path, const nlohmann::json& json) {
  write_file(path, json.dump(2) + "\n");
}

}  // namespace contraflow
