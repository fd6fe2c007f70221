#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <queue>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf16.h>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/text/tokens.hpp>

/// @file
/// CLIP's byte-pair encoding, as the text encoders of Stable Diffusion read it.

namespace contraflow {

/// What a CLIP tokenizer is told beside its vocabulary.
struct ClipTokenizerOptions {
  std::string pad = "<|endoftext|>";  ///< token of the vocabulary that fills the window
  std::int64_t length = 77;           ///< tokens of the window, at least 3
};

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
  if (file.size() > detail::max_json_size) {
    throw Error(path.string(), "at most " + std::to_string(detail::max_json_size) + " bytes",
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

// A token that is found in captions as it stands, before they are split into words.
struct Special {
  icu::UnicodeString text;
  std::int64_t id;
  bool normalized;  // found in the normalised caption, not in the caption as given
};

// The files of a tokenizer's folder that say which tokens are special.
struct Configuration {
  ClipTokenizerOptions options = {};
  std::vector<std::tuple<std::string, std::int64_t, bool>> added = {};  // text, id, normalized
  bool begin_normalized = false, end_normalized = false;
};

// Entries of these files are strings or objects around them.
inline std::optional<std::string> content(const Settings& settings, const std::string& key) {
  if (!settings.has(key)) return std::nullopt;
  if (settings.json().at(key).is_object()) return settings.section(key).text("content");
  return settings.text(key);
}

inline bool normalized(const Settings& settings, const std::string& key) {
  if (!settings.has(key) || !settings.json().at(key).is_object()) return false;
  return settings.section(key).boolean("normalized", false);
}

inline Settings optional_settings(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return Settings(nlohmann::json::object(), path.string());
  return Settings(path);
}

// As transformers reads them: the list of added tokens decides where there is one; without it, the
// map of special tokens goes before the configuration.
inline Configuration read_configuration(const std::filesystem::path& folder) {
  const Settings config = optional_settings(folder / "tokenizer_config.json");
  const Settings map = optional_settings(folder / "special_tokens_map.json");
  Configuration result;
  const bool has_list = config.has("added_tokens_decoder");
  const Settings& first = has_list ? config : map;
  const Settings& second = has_list ? map : config;
  result.options.pad = content(first, "pad_token")
                           .value_or(content(second, "pad_token").value_or(result.options.pad));
  // "No limit" is written as 1e30.
  constexpr double longest = 1 << 16;
  if (config.number("model_max_length", 2 * longest) <= longest) {
    result.options.length = config.integer("model_max_length");
  }
  if (!has_list) {
    const auto of = [&](const char* key) {
      return map.has(key) ? normalized(map, key) : normalized(config, key);
    };
    result.begin_normalized = of("bos_token");
    result.end_normalized = of("eos_token");
    return result;
  }
  const Settings list = config.section("added_tokens_decoder");
  for (const auto& entry : list.json().items()) {
    const Settings token = list.section(entry.key());
    const bool digits = !entry.key().empty() && entry.key().size() < 10 &&
                        entry.key().find_first_not_of("0123456789") == std::string::npos;
    if (!digits) throw Error(list.name(), "ids of tokens as keys", "another key");
    result.added.emplace_back(token.text("content"), std::stoll(entry.key()),
                              token.boolean("normalized", false));
  }
  return result;
}

// All a tokenizer is made of, and what errors call its parts.
struct Parts {
  std::string vocabulary_name = "vocabulary", merges_name = "merges";
  Vocabulary vocabulary = {};
  std::vector<std::string> merges = {};
  Configuration configuration = {};
};

// Everything in tokenizer.json, the only file that newer releases of transformers write.
inline Parts read_single_file(const std::filesystem::path& path) {
  const Settings file(path);
  const Settings model = file.section("model");
  Parts parts{file.name(), file.name(), read_vocabulary(model.section("vocab"))};
  const auto list = [&](const Settings& settings, const char* key) -> const nlohmann::json& {
    const auto found = settings.json().find(key);
    if (found != settings.json().end() && found->is_array()) return *found;
    throw Error(settings.name(), std::string("a list as ") + key, "none");
  };
  for (const nlohmann::json& merge : list(model, "merges")) {
    const bool is_pair =
        merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    if (!is_pair && !merge.is_string()) {
      throw Error(model.name(), "merges of two tokens", "another entry");
    }
    parts.merges.push_back(is_pair ? merge[0].get<std::string>() + " " + merge[1].get<std::string>()
                                   : merge.get<std::string>());
  }
  parts.configuration = read_configuration(path.parent_path());
  parts.configuration.added.clear();
  for (const nlohmann::json& entry : list(file, "added_tokens")) {
    const Settings token(entry, file.name() + ": added_tokens");
    parts.configuration.added.emplace_back(token.text("content"),
                                           token.integer("id", 0, largest_id),
                                           token.boolean("normalized", false));
  }
  return parts;
}

inline Parts read_parts(const std::filesystem::path& folder) {
  const std::filesystem::path vocabulary = folder / "vocab.json", merges = folder / "merges.txt";
  const std::filesystem::path single = folder / "tokenizer.json";
  if (!std::filesystem::exists(vocabulary) && std::filesystem::exists(single)) {
    return read_single_file(single);
  }
  return {vocabulary.string(), merges.string(), read_vocabulary(Settings(vocabulary)),
          read_merges(merges), read_configuration(folder)};
}

// NFC, runs of white space as one space, lower case. Characters are lowered one by one: no final
// sigma.
inline icu::UnicodeString normalised(const icu::UnicodeString& text) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(status);
  const icu::UnicodeString composed =
      U_SUCCESS(status) ? nfc->normalize(text, status) : icu::UnicodeString();
  if (U_FAILURE(status)) throw Error("ICU", "its data for normalisation", u_errorName(status));
  icu::UnicodeString result;
  bool after_space = false;
  for (std::int32_t i = 0; i < composed.length();) {
    const UChar32 c = composed.char32At(i);
    i += U16_LENGTH(c);
    const bool space = u_isUWhiteSpace(c);
    if (space && !after_space) result.append(u' ');
    after_space = space;
    if (space) continue;
    // The one character whose lower case is two.
    constexpr UChar32 dotted_capital_i = 0x130;
    if (c == dotted_capital_i) {
      result.append(u'i').append(UChar32{0x307});
    } else {
      result.append(u_tolower(c));
    }
  }
  return result;
}

// Calls `special(id)` and `between(text)` for the pieces of a text, in order.
template <class OnSpecial, class OnText>
void split_at(const icu::UnicodeString& text, const std::vector<Special>& specials, bool normalized,
              OnSpecial&& on_special, OnText&& on_text) {
  std::int32_t begin = 0;
  const auto flush = [&](std::int32_t end) {
    if (end > begin) on_text(text.tempSubStringBetween(begin, end));
  };
  for (std::int32_t i = 0; i < text.length();) {
    const Special* longest = nullptr;
    for (const Special& special : specials) {
      if (special.normalized != normalized || special.text.length() == 0) continue;
      if (longest != nullptr && longest->text.length() >= special.text.length()) continue;
      if (text.compare(i, special.text.length(), special.text) == 0) longest = &special;
    }
    if (longest == nullptr) {
      ++i;
      continue;
    }
    flush(i);
    on_special(longest->id);
    i += longest->text.length();
    begin = i;
  }
  flush(text.length());
}

enum class Kind { space, letter, number, other };

inline Kind kind_of(UChar32 c) {
  const std::uint32_t category = U_GET_GC_MASK(c);
  if ((category & U_GC_L_MASK) != 0) return Kind::letter;
  if ((category & U_GC_N_MASK) != 0) return Kind::number;
  return u_isUWhiteSpace(c) ? Kind::space : Kind::other;
}

// End of the English contraction that begins at `from`, or `from`.
inline std::int32_t contraction_end(const icu::UnicodeString& text, std::int32_t from) {
  if (text.charAt(from) != u'\'') return from;
  for (const char16_t* suffix : {u"'s", u"'t", u"'re", u"'ve", u"'m", u"'ll", u"'d"}) {
    const auto length = static_cast<std::int32_t>(std::char_traits<char16_t>::length(suffix));
    if (text.compare(from, length, suffix) == 0) return from + length;
  }
  return from;
}

// Calls `word(text)` for what the expression
// <\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+
// finds in a normalised text.
template <class OnWord>
void split_words(const icu::UnicodeString& text, OnWord&& on_word) {
  const auto emit = [&](std::int32_t begin, std::int32_t end) {
    on_word(text.tempSubStringBetween(begin, end));
  };
  for (std::int32_t begin = 0; begin < text.length();) {
    bool bracketed = false;
    for (const char16_t* token : {u"<|startoftext|>", u"<|endoftext|>"}) {
      const auto length = static_cast<std::int32_t>(std::char_traits<char16_t>::length(token));
      if (text.compare(begin, length, token) != 0) continue;
      // The byte-level step of the published tokenizer splits it again.
      emit(begin, begin + 2);
      emit(begin + 2, begin + length - 2);
      emit(begin + length - 2, begin + length);
      begin += length;
      bracketed = true;
      break;
    }
    if (bracketed) continue;
    std::int32_t end = contraction_end(text, begin);
    if (end == begin) {
      const Kind kind = kind_of(text.char32At(begin));
      const auto joins = [&](std::int32_t at) { return kind_of(text.char32At(at)) == kind; };
      end = text.moveIndex32(begin, 1);
      if (kind == Kind::space) {
        begin = end;
        continue;
      }
      while (kind != Kind::number && end < text.length() && joins(end)) {
        end = text.moveIndex32(end, 1);
      }
    }
    emit(begin, end);
    begin = end;
  }
}

}  // namespace clip_bpe

/// CLIP's tokenizer: captions to ids of a window that begins with a token of its own, ends with
/// another and is padded.
///
/// The text is brought to NFC, white space is collapsed, letters become lower case; words are found
/// by the published expression, spelt in bytes and merged by byte-pair encoding (Sennrich et al.,
/// 2016; the variant of Radford et al., 2021). Ids are those of transformers' CLIPTokenizer, also
/// where it surprises: a special token written out in a caption is that token, so with the padding
/// "!" of Stable Diffusion's second tokenizer every "!" of a caption is the padding token.
///
/// Bytes that are not UTF-8 count as U+FFFD. Encoding is const and shares no state: one tokenizer
/// serves any number of threads. No random numbers.
class ClipTokenizer {
 public:
  /// Ids of tokens by their text.
  using Vocabulary = clip_bpe::Vocabulary;

  /// Reads the files that transformers writes.
  /// @param folder holds vocab.json and merges.txt, or else tokenizer.json; special tokens and
  ///   length are taken from tokenizer_config.json and special_tokens_map.json where they are there
  /// @throws Error naming the file, for one that is missing or that does not fit the others
  explicit ClipTokenizer(const std::filesystem::path& folder)
      : ClipTokenizer(clip_bpe::read_parts(folder)) {}

  /// @param vocabulary ids by text, with the two special tokens and @p options' padding
  /// @param merges lines "left right", the first to be merged first
  /// @param options padding and length
  /// @throws Error for a merge whose parts or result are not in the vocabulary, a special token
  ///   that is not, or a length below 3
  ClipTokenizer(Vocabulary vocabulary, std::vector<std::string> merges,
                ClipTokenizerOptions options = {})
      : ClipTokenizer(clip_bpe::Parts{.vocabulary = std::move(vocabulary),
                                      .merges = std::move(merges),
                                      .configuration = {.options = std::move(options)}}) {}

  /// The vocabulary is what the merges make of single bytes, as in the published one: 256 bytes,
  /// 256 bytes at the end of a word, the merges' results, and the two special tokens.
  /// @param merges lines "left right"; the published ones are 48,894
  /// @param options padding and length
  /// @throws Error as the constructor does
  static ClipTokenizer from_merges(const std::vector<std::string>& merges,
                                   ClipTokenizerOptions options = {}) {
    return ClipTokenizer(clip_bpe::vocabulary_of(merges), merges, std::move(options));
  }

  /// Number of tokens in the window.
  std::int64_t length() const { return options_.length; }
  /// Id of the token that fills the window.
  std::int64_t pad_id() const { return pad_; }
  /// One more than the largest id.
  std::int64_t vocabulary_size() const { return vocabulary_size_; }

  /// @param caption UTF-8 of at most 1 MiB
  /// @return length() ids: begin, the caption's tokens as far as they fit, end, padding
  /// @throws Error for a longer caption
  TokenIds encode(const std::string& caption) const {
    std::vector<std::int64_t> tokens;
    const auto on_special = [&](std::int64_t id) { tokens.push_back(id); };
    const auto on_words = [&](const icu::UnicodeString& text) {
      clip_bpe::split_words(text, [&](const icu::UnicodeString& word) { append(word, tokens); });
    };
    const auto on_raw = [&](const icu::UnicodeString& text) {
      clip_bpe::split_at(clip_bpe::normalised(text), specials_, true, on_special, on_words);
    };
    clip_bpe::split_at(detail::utf16(caption), specials_, false, on_special, on_raw);
    return detail::fitted({begin_}, tokens, end_, pad_, options_.length);
  }

  /// All captions at once.
  /// @par Shape
  /// ids of the result: int64 [captions, length()]
  TokenBatch encode(const std::vector<std::string>& captions) const {
    return detail::encode_all(*this, captions);
  }

 private:
  struct Merge {
    std::size_t rank;
    std::int64_t result;
  };

  explicit ClipTokenizer(const clip_bpe::Parts& parts) : options_(parts.configuration.options) {
    const Vocabulary& vocabulary = parts.vocabulary;
    if (options_.length < 3) {
      throw Error("length", "at least 3 tokens", std::to_string(options_.length));
    }
    const auto id_of = [&](const std::string& token) {
      const auto found = vocabulary.find(token);
      if (found == vocabulary.end()) {
        throw Error(parts.vocabulary_name, "the token " + detail::excerpt(token), "none");
      }
      return found->second;
    };
    begin_ = id_of(clip_bpe::begin_text);
    end_ = id_of(clip_bpe::end_text);
    pad_ = id_of(options_.pad);
    for (const auto& [token, id] : vocabulary)
      vocabulary_size_ = std::max(vocabulary_size_, id + 1);
    take_specials(parts.configuration);
    for (const auto& [byte, symbol] : clip_bpe::byte_symbols()) {
      const auto inside = vocabulary.find(symbol);
      const auto last = vocabulary.find(symbol + clip_bpe::word_end);
      // What a vocabulary lacks is read as the end of the text, its unknown token.
      inside_[byte] = inside == vocabulary.end() ? end_ : inside->second;
      last_[byte] = last == vocabulary.end() ? end_ : last->second;
    }
    take_merges(vocabulary, parts.merges, parts.merges_name);
  }

  void take_specials(const clip_bpe::Configuration& configuration) {
    const auto add = [&](const std::string& text, std::int64_t id, bool normalized) {
      icu::UnicodeString pattern = icu::UnicodeString::fromUTF8(text);
      for (const clip_bpe::Special& known : specials_) {
        if (known.text == pattern) return;
      }
      if (normalized) pattern = clip_bpe::normalised(pattern);
      specials_.push_back({std::move(pattern), id, normalized});
    };
    for (const auto& [text, id, normalized] : configuration.added) add(text, id, normalized);
    add(clip_bpe::begin_text, begin_, configuration.begin_normalized);
    add(clip_bpe::end_text, end_, configuration.end_normalized);
    add(options_.pad, pad_, false);
  }

  void take_merges(const Vocabulary& vocabulary, const std::vector<std::string>& merges,
                   const std::string& source) {
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
      const auto [left, right] = clip_bpe::parts_of(source, rank, merges[rank]);
      const auto a = vocabulary.find(left), b = vocabulary.find(right);
      const auto both = vocabulary.find(left + right);
      if (a == vocabulary.end() || b == vocabulary.end() || both == vocabulary.end()) {
        throw Error(source, "merges of tokens of the vocabulary",
                    "another at number " + std::to_string(rank + 1));
      }
      merges_.try_emplace(key(a->second, b->second), Merge{rank, both->second});
    }
  }

  static std::uint64_t key(std::int64_t left, std::int64_t right) {
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right);
  }

  // Spells a word in bytes and merges neighbours, the pair of the lowest rank first and of equal
  // ones the leftmost. A queue of pairs keeps long words from taking quadratic time.
  void append(const icu::UnicodeString& word, std::vector<std::int64_t>& tokens) const {
    std::string bytes;
    word.toUTF8String(bytes);
    const std::size_t count = bytes.size();
    std::vector<std::int64_t> ids(count);
    std::vector<std::size_t> next(count), previous(count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto byte = static_cast<std::uint8_t>(bytes[i]);
      ids[i] = i + 1 == count ? last_[byte] : inside_[byte];
      next[i] = i + 1;
      previous[i] = i - 1;
    }
    using Candidate = std::tuple<std::size_t, std::size_t, std::int64_t, std::int64_t>;
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
    const auto consider = [&](std::size_t left) {
      if (left >= count || next[left] >= count) return;
      const auto found = merges_.find(key(ids[left], ids[next[left]]));
      if (found == merges_.end()) return;
      queue.emplace(found->second.rank, left, ids[left], ids[next[left]]);
    };
    for (std::size_t i = 0; i < count; ++i) consider(i);
    constexpr std::int64_t gone = -1;
    while (!queue.empty()) {
      const auto [rank, left, left_id, right_id] = queue.top();
      queue.pop();
      const std::size_t right = next[left];
      // One of the two has been merged with another neighbour meanwhile.
      if (ids[left] != left_id || right >= count || ids[right] != right_id) continue;
      ids[left] = merges_.at(key(left_id, right_id)).result;
      ids[right] = gone;
      next[left] = next[right];
      if (next[left] < count) previous[next[left]] = left;
      consider(left);
      consider(previous[left]);
    }
    for (const std::int64_t id : ids) {
      if (id != gone) tokens.push_back(id);
    }
  }

  ClipTokenizerOptions options_;
  std::int64_t begin_ = 0, end_ = 0, pad_ = 0, vocabulary_size_ = 0;
  std::vector<clip_bpe::Special> specials_;
  std::array<std::int64_t, 256> inside_{}, last_{};
  std::unordered_map<std::uint64_t, Merge> merges_;
};

/// Writes the folder that ClipTokenizer and transformers read: vocab.json, merges.txt,
/// special_tokens_map.json and tokenizer_config.json, with the vocabulary of
/// ClipTokenizer::from_merges.
/// @param folder an existing folder
/// @param merges lines "left right", possibly none
/// @param options padding and length
/// @throws Error for merges that make no vocabulary, or a file that cannot be written
inline void write_clip_tokenizer(const std::filesystem::path& folder,
                                 const std::vector<std::string>& merges,
                                 const ClipTokenizerOptions& options = {}) {
  ClipTokenizer::from_merges(merges, options);
  const auto write = [&](const char* name, const std::string& text) {
    PendingFile file((folder / name).string());
    file.write(text.data(), text.size());
    file.publish();
  };
  std::string lines = "#version: 0.2\n";
  for (const std::string& merge : merges) lines += merge + "\n";
  const nlohmann::json vocabulary = clip_bpe::vocabulary_of(merges);
  nlohmann::json special{{"bos_token", clip_bpe::begin_text},
                         {"eos_token", clip_bpe::end_text},
                         {"unk_token", clip_bpe::end_text},
                         {"pad_token", options.pad}};
  write("vocab.json", vocabulary.dump());
  write("merges.txt", lines);
  write("special_tokens_map.json", special.dump(2));
  special["tokenizer_class"] = "CLIPTokenizer";
  special["model_max_length"] = options.length;
  write("tokenizer_config.json", special.dump(2));
}

}  // namespace contraflow
