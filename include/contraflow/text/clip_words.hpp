#pragma once

/// @file
/// Captions as CLIP's tokenizer sees them: normalised, and split into words.

#include <cstdint>
#include <string>
#include <vector>

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf16.h>

#include <contraflow/core/error.hpp>

namespace contraflow {

namespace clip_bpe {

// A token that is found in captions as it stands, before they are split into words.
struct Special {
  icu::UnicodeString text;
  std::int64_t id;
  bool normalized;  // found in the normalised caption, not in the caption as given
};

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

}  // namespace contraflow
