#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <unicode/unistr.h>

#include <contraflow/core/error.hpp>
#include <contraflow/core/tensor.hpp>

/// @file
/// What tokenizers make of captions.

namespace contraflow {

/// One caption as token ids of a fixed length.
struct TokenIds {
  std::vector<std::int64_t> ids;  ///< with begin and end of text, padded
  std::int64_t cut = 0;           ///< tokens of the caption that did not fit
};

/// Captions as token ids.
struct TokenBatch {
  Tensor ids;                     ///< int64 [B, L], on the CPU
  std::vector<std::int64_t> cut;  ///< tokens that did not fit, for each caption
};

namespace detail {

// A caption of more is a mistake, and what it costs to tokenize it would look like a hang.
inline constexpr std::size_t max_caption = std::size_t{1} << 20;

// UTF-16, in which every byte that is not UTF-8 has become U+FFFD.
inline icu::UnicodeString utf16(const std::string& caption) {
  if (caption.size() > max_caption) {
    throw Error("caption", "at most " + std::to_string(max_caption) + " bytes",
                std::to_string(caption.size()));
  }
  return icu::UnicodeString::fromUTF8(caption);
}

// Puts a caption's own tokens between `begin` and `end`, cuts what does not fit and pads.
inline TokenIds fitted(const std::vector<std::int64_t>& begin,
                       const std::vector<std::int64_t>& tokens, std::int64_t end, std::int64_t pad,
                       std::int64_t length) {
  const std::size_t room = static_cast<std::size_t>(length) - begin.size() - 1;
  const std::size_t kept = std::min(room, tokens.size());
  TokenIds result{begin, static_cast<std::int64_t>(tokens.size() - kept)};
  result.ids.insert(result.ids.end(), tokens.begin(),
                    tokens.begin() + static_cast<std::ptrdiff_t>(kept));
  result.ids.push_back(end);
  result.ids.resize(static_cast<std::size_t>(length), pad);
  return result;
}

template <class Tokenizer>
TokenBatch encode_all(const Tokenizer& tokenizer, const std::vector<std::string>& captions) {
  const auto count = static_cast<std::int64_t>(captions.size());
  TokenBatch batch{at::empty({count, tokenizer.length()}, at::kLong), {}};
  auto* next = batch.ids.template mutable_data_ptr<std::int64_t>();
  for (const std::string& caption : captions) {
    const TokenIds tokens = tokenizer.encode(caption);
    next = std::copy(tokens.ids.begin(), tokens.ids.end(), next);
    batch.cut.push_back(tokens.cut);
  }
  return batch;
}

}  // namespace detail

}  // namespace contraflow
