#pragma once

/// @file
/// Prompts that are JSON records: a caption, and what else a judge wants to know.

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/io/file.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/reward/image_batch.hpp>

namespace contraflow {

/// What is known of prompts, one JSON value each, such as a line of GenEval's metadata:
/// `{"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "two cats"}`. They are
/// the reference of `PromptRows(condition, records)`.
using Records = std::vector<nlohmann::json>;

namespace detail {
/// The caption of a record, or nothing.
inline const std::string* caption_in(const nlohmann::json& record, const std::string& key) {
  if (!record.is_object()) return nullptr;
  const auto found = record.find(key);
  return found == record.end() ? nullptr : found->get_ptr<const std::string*>();
}

inline void expects_records(const Records& records, const Tensor& images) {
  if (std::int64_t(records.size()) != images.size(0)) {
    throw Error("records", "one an image, " + shown(images.size(0)), shown(records.size()));
  }
}
}  // namespace detail

/// The captions of records: for the encoders of a model, and for rewards that read captions alone.
/// @param records objects
/// @param key under which each has its caption
/// @throws Error if a record has none
inline Captions captions_of(const Records& records, const std::string& key = "prompt") {
  Captions captions;
  captions.reserve(records.size());
  for (const nlohmann::json& record : records) {
    const std::string* caption = detail::caption_in(record, key);
    if (caption == nullptr) {
      throw Error("records", "objects with a text \"" + key + "\"",
                  record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    }
    captions.push_back(*caption);
  }
  return captions;
}

namespace detail {

/// The lines of a text that are not blank, with their numbers, without a byte-order mark and
/// without blanks around them.
inline std::vector<std::pair<std::int64_t, std::string>> lines_in(std::string_view text) {
  constexpr std::string_view mark = "\xEF\xBB\xBF", blanks = " \t\r\v\f";
  if (text.starts_with(mark)) text.remove_prefix(mark.size());
  std::vector<std::pair<std::int64_t, std::string>> lines;
  for (std::int64_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::size_t first = line.find_first_not_of(blanks);
    if (first == std::string_view::npos) continue;
    line = line.substr(first, line.find_last_not_of(blanks) - first + 1);
    lines.emplace_back(number, line);
  }
  return lines;
}

/// Refuses what would be read as lines and is none.
inline void expects_lines(std::string_view text, const std::string& source) {
  if (text.find('\0') != std::string_view::npos) throw Error(source, "text", "a zero byte in it");
  const std::size_t begin = text.find_first_not_of("\xEF\xBB\xBF \t\r\n");
  const bool is_array = begin != std::string_view::npos && text[begin] == '[' &&
                        nlohmann::json::accept(text.substr(begin));
  if (is_array) throw Error(source, "a prompt a line, or a JSON object a line", "a JSON array");
}

inline nlohmann::json record_in(const std::string& line, bool is_json, const std::string& source) {
  if (line.find('\r') != std::string::npos) {
    throw Error(source, "lines that end with a line feed", "a carriage return within one");
  }
  if (!is_json) {
    if (line.starts_with('{') && nlohmann::json::accept(line)) {
      throw Error(source, "a caption, as the first line is one", "a JSON object");
    }
    // A caption goes to tokenizers and judges: it has to be text.
    nlohmann::json record{{"prompt", line}};
    try {
      static_cast<void>(record.dump());
    } catch (const nlohmann::json::type_error&) {
      throw Error(source, "text in UTF-8", "other bytes");
    }
    return record;
  }
  nlohmann::json record = parse_json(source, line);
  if (caption_in(record, "prompt") == nullptr) {
    throw Error(source, "an object with a text \"prompt\"", line.substr(0, 80));
  }
  return record;
}

}  // namespace detail

/// The prompts of a text: a caption a line, or a JSON object with a text "prompt" a line, such as
/// GenEval's metadata. Which of the two the first line says, by a brace at its beginning.
///
/// A byte-order mark, carriage returns at the end of a line, blank lines and blanks around a line
/// are left out.
/// @param text in UTF-8
/// @param source named in errors, such as the file
/// @return at least one; captions as objects with their "prompt"
/// @throws Error naming the source and the line that is neither, or the source if there is no
///   prompt, or one JSON array in the place of lines
inline Records records_in(std::string_view text, const std::string& source) {
  detail::expects_lines(text, source);
  const auto lines = detail::lines_in(text);
  if (lines.empty()) throw Error(source, "a prompt a line", "none");
  const bool is_json = lines.front().second.starts_with('{');
  Records records;
  records.reserve(lines.size());
  for (const auto& [number, line] : lines) {
    records.push_back(detail::record_in(line, is_json, source + ":" + shown(number)));
  }
  return records;
}

/// The prompts of a file, see records_in().
/// @throws Error naming the file, and the line where it is at fault
inline Records read_records(const std::filesystem::path& path) {
  const MappedFile file(path.string());
  return records_in({file.bytes(), file.size()}, path.string());
}

/// A reward on images and captions, for prompts that are JSON records: `OnCaptions(clip_score)`
/// beside a judge that is told all of a record.
/// @tparam R a Reward under Captions
template <class R>
class OnCaptions {
 public:
  static_assert(std::invocable<const R&, const Tensor&, const Captions&>,
                "contraflow: OnCaptions takes a Reward that is callable as `reward(images, "
                "captions)`");

  /// @param reward is told the captions
  /// @param key under which a record has its caption
  explicit OnCaptions(R reward, std::string key = "prompt")
      : reward_(std::move(reward)), key_(std::move(key)) {}

  /// What the reward gives.
  /// @throws Error if a record has no caption, and what the reward throws
  auto operator()(const Tensor& images, const Records& records) const {
    return reward_(images, captions_of(records, key_));
  }

 private:
  R reward_;
  std::string key_;
};

}  // namespace contraflow
