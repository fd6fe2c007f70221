#pragma once

/// @file
/// CLIP's byte-pair encoding, as the text encoders of Stable Diffusion read it.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <queue>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <unicode/unistr.h>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/text/clip_files.hpp>
#include <contraflow/text/clip_vocabulary.hpp>
#include <contraflow/text/clip_words.hpp>
#include <contraflow/text/tokens.hpp>

namespace contraflow {

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
        throw Error(parts.vocabulary_name, "the token " + excerpt(token), "none");
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
      vocabulary_size_ = std::max(vocabulary_size_, id + 1);
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
  std::string lines = "#version: 0.2\n";
  for (const std::string& merge : merges) lines += merge + "\n";
  const nlohmann::json vocabulary = clip_bpe::vocabulary_of(merges);
  nlohmann::json special{{"bos_token", clip_bpe::begin_text},
                         {"eos_token", clip_bpe::end_text},
                         {"unk_token", clip_bpe::end_text},
                         {"pad_token", options.pad}};
  write_file(folder / "vocab.json", vocabulary.dump());
  write_file(folder / "merges.txt", lines);
  write_json(folder / "special_tokens_map.json", special);
  special["tokenizer_class"] = "CLIPTokenizer";
  special["model_max_length"] = options.length;
  write_json(folder / "tokenizer_config.json", special);
}

}  // namespace contraflow
