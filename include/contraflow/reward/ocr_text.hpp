#pragma once

/// @file
/// Texts that images are to show: where prompts say them, and how much of one was read.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf16.h>

#include <contraflow/core/error.hpp>
#include <contraflow/reward/image_batch.hpp>
#include <contraflow/reward/records.hpp>

namespace contraflow {

/// A text as the score of a reader compares it: code points in lower case, without white space.
/// @param text in UTF-8; other bytes count as U+FFFD
inline std::u32string normalised_text(std::string_view text) {
  const auto size = static_cast<std::int32_t>(text.size());
  const auto utf16 = icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), size));
  std::u32string result;
  for (std::int32_t i = 0; i < utf16.length();) {
    const UChar32 c = utf16.char32At(i);
    i += U16_LENGTH(c);
    if (!u_isUWhiteSpace(c)) result.push_back(static_cast<char32_t>(u_tolower(c)));
  }
  return result;
}

/// The least number of code points that are put in, taken out or replaced to make one text of the
/// other (Levenshtein 1966). Its time is the product of their lengths.
inline std::int64_t edit_distance(std::u32string_view a, std::u32string_view b) {
  // Distances of what of a was seen so far to each beginning of b.
  std::vector<std::int64_t> distances(b.size() + 1);
  std::iota(distances.begin(), distances.end(), 0);
  for (const char32_t c : a) {
    std::int64_t replaced = std::exchange(distances[0], distances[0] + 1);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::int64_t changed = replaced + (c == b[j - 1] ? 0 : 1);
      replaced = distances[j];
      distances[j] = std::min({changed, distances[j] + 1, distances[j - 1] + 1});
    }
  }
  return distances.back();
}

/// How much of a wanted text was read, from 0 to 1.
///
/// `1 - min(d, n) / n`, n the length of the wanted text and d its edit_distance() to what was read,
/// or 0 where what was read holds it; both are normalised_text() (the reward for text rendering of
/// Flow-GRPO: Liu and others 2025). Letters that were read beside the wanted text cost nothing.
/// @param read in UTF-8
/// @param wanted in UTF-8
/// @throws Error if there is nothing but white space in @p wanted
inline double text_match(std::string_view read, std::string_view wanted) {
  const std::u32string letters = normalised_text(read), target = normalised_text(wanted);
  expects(!target.empty(), "wanted", "a text that is not blank", "\"" + shown(wanted) + "\"");
  if (letters.find(target) != std::u32string::npos) return 1;
  const auto length = static_cast<std::int64_t>(target.size());
  return 1 - double(std::min(edit_distance(letters, target), length)) / double(length);
}

/// What stands between the first two double quotes (") of a caption; nothing where there are none.
inline std::optional<std::string> quoted_text(std::string_view caption) {
  const std::size_t begin = caption.find('"');
  if (begin == std::string_view::npos) return {};
  const std::size_t end = caption.find('"', begin + 1);
  if (end == std::string_view::npos) return {};
  return std::string(caption.substr(begin + 1, end - begin - 1));
}

namespace detail {

/// A text, if there is one and it is not blank.
inline std::string expects_text(const std::optional<std::string>& text, const char* argument,
                                const std::string& expected, const std::string& prompt) {
  if (!text || normalised_text(*text).empty()) throw Error(argument, expected, prompt);
  return *text;
}

inline std::optional<std::string> text_in(const nlohmann::json& record, const std::string& key) {
  if (const std::string* text = caption_in(record, key)) return *text;
  const std::string* caption = caption_in(record, "prompt");
  return caption == nullptr ? std::nullopt : quoted_text(*caption);
}

}  // namespace detail

/// The texts that captions want to be shown: quoted_text() of each.
/// @throws Error naming the first caption that quotes none, or a blank one
inline std::vector<std::string> wanted_texts(const Captions& captions) {
  std::vector<std::string> texts;
  texts.reserve(captions.size());
  for (const std::string& caption : captions) {
    texts.push_back(detail::expects_text(quoted_text(caption), "captions",
                                         "a text in double quotes, that is not blank", caption));
  }
  return texts;
}

/// The texts that records want to be shown: what a record has under a key, or else what its
/// caption, under "prompt", quotes.
/// @param records objects
/// @param key under which a record may have its text
/// @throws Error naming the first record that has none, or a blank one
inline std::vector<std::string> wanted_texts(const Records& records,
                                             const std::string& key = "text") {
  const std::string expected =
      "a text \"" + key + "\", or a \"prompt\" with one in double quotes, that is not blank";
  std::vector<std::string> texts;
  texts.reserve(records.size());
  for (const nlohmann::json& record : records) {
    texts.push_back(detail::expects_text(
        detail::text_in(record, key), "records", expected,
        record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  }
  return texts;
}

}  // namespace contraflow
