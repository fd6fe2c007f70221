#pragma once

/// @file
/// Unigram models in the files of SentencePiece and of transformers.

#include <bit>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/core/error.hpp>
#include <contraflow/io/base64.hpp>
#include <contraflow/io/settings.hpp>

namespace contraflow::unigram {

// The few kinds of field that a model in Protocol Buffers needs.
inline void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

inline void append_number(std::string& out, unsigned field, std::uint64_t value) {
  append_varint(out, field << 3);
  append_varint(out, value);
}

inline void append_bytes(std::string& out, unsigned field, const std::string& bytes) {
  append_varint(out, field << 3 | 2);
  append_varint(out, bytes.size());
  out += bytes;
}

inline void append_float(std::string& out, unsigned field, float value) {
  append_varint(out, field << 3 | 5);
  const auto bits = std::bit_cast<std::uint32_t>(value);
  for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(bits >> shift);
}

enum class Kind : std::uint64_t { normal = 1, unknown = 2, control = 3 };

inline void append_piece(std::string& out, const std::string& text, float score, Kind kind) {
  std::string piece;
  append_bytes(piece, 1, text);
  append_float(piece, 2, score);
  append_number(piece, 3, static_cast<std::uint64_t>(kind));
  append_bytes(out, 1, piece);
}

struct Piece {
  std::string text;
  float score;
  Kind kind;
};

// A model that adds a space before the text and joins spaces, as T5's does.
// @param characters how characters are normalised, in SentencePiece's own form; empty: not at all
inline std::string model_of(const std::vector<Piece>& pieces, const std::string& characters = {}) {
  std::string model;
  for (const Piece& piece : pieces) append_piece(model, piece.text, piece.score, piece.kind);
  std::string trainer;
  append_number(trainer, 3, 1);                                // model_type: unigram
  append_number(trainer, 40, 2);                               // unk_id
  append_number(trainer, 41, static_cast<std::uint64_t>(-1));  // bos_id
  append_number(trainer, 42, 1);                               // eos_id
  append_number(trainer, 43, 0);                               // pad_id
  append_bytes(model, 2, trainer);
  std::string normalizer;
  append_bytes(normalizer, 1, characters.empty() ? "identity" : "precompiled");
  if (!characters.empty()) append_bytes(normalizer, 2, characters);
  append_bytes(model, 3, normalizer);
  return model;
}

// U+2581, which stands for a space.
inline constexpr const char* space = "\xE2\x96\x81";

inline std::string type_of(const Settings& part) { return part.text("type"); }

// The parts of a Sequence, or the part itself.
inline std::vector<Settings> parts_of(const Settings& part, const char* list) {
  if (type_of(part) != "Sequence") return {part};
  const auto found = part.json().find(list);
  if (found == part.json().end() || !found->is_array()) {
    throw Error(part.name(), std::string("a list as ") + list, "none");
  }
  std::vector<Settings> parts;
  for (const nlohmann::json& entry : *found) parts.emplace_back(entry, part.name());
  return parts;
}

// What joins spaces and takes them from the ends, which SentencePiece does by itself.
inline bool is_about_spaces(const Settings& part) {
  if (type_of(part) == "Strip") return true;
  if (type_of(part) != "Replace") return false;
  const std::string content = part.text("content");
  return part.section("pattern").text("Regex", "") == " {2,}" &&
         (content == space || content == " ");
}

// How characters are normalised, in SentencePiece's own form. Releases of transformers differ in
// whether they name what is done with spaces.
inline std::string characters_of(const Settings& file) {
  if (!file.has("normalizer")) return {};
  std::string characters;
  for (const Settings& part : parts_of(file.section("normalizer"), "normalizers")) {
    if (is_about_spaces(part)) continue;
    if (type_of(part) != "Precompiled" || !characters.empty()) {
      throw Error(part.name(), "type Precompiled, once, and Strip and Replace of spaces",
                  type_of(part));
    }
    const auto bytes = decode_base64(part.text("precompiled_charsmap"));
    characters.assign(bytes.begin(), bytes.end());
  }
  return characters;
}

// Refuses what puts spaces elsewhere than SentencePiece does: one before the text, each of them
// the beginning of a piece.
inline void expects_spaces_as_usual(const Settings& file) {
  if (!file.has("pre_tokenizer")) return;
  bool is_split = false;
  for (const Settings& part : parts_of(file.section("pre_tokenizer"), "pretokenizers")) {
    const std::string type = type_of(part);
    if (type == "WhitespaceSplit") {
      is_split = true;
      continue;
    }
    if (type != "Metaspace") throw Error(part.name(), "type Metaspace or WhitespaceSplit", type);
    part.expects_text("replacement", space);
    const bool has_prefix = part.boolean("add_prefix_space", true);
    const std::string scheme = part.text("prepend_scheme", has_prefix ? "always" : "never");
    if (scheme == "always" || (scheme == "first" && !is_split)) continue;
    throw Error(part.name(), "a space before each word (prepend_scheme always)", scheme);
  }
}

// Tokens that no text gives.
inline std::set<std::string> control_tokens(const Settings& file) {
  std::set<std::string> tokens{"<pad>", "</s>"};
  for (const nlohmann::json& token : file.json().value("added_tokens", nlohmann::json::array())) {
    tokens.insert(Settings(token, file.name() + ": added_tokens").text("content"));
  }
  return tokens;
}

// The model in tokenizer.json, which releases 4 and 5 of transformers write in different ways.
inline std::string read_single_file(const std::filesystem::path& path) {
  const Settings file(path);
  const Settings model = file.section("model");
  model.expects_text("type", "Unigram");
  if (model.boolean("byte_fallback", false)) {
    throw Error(model.name(), "byte_fallback false, as T5 has it", "true");
  }
  expects_spaces_as_usual(file);
  const auto expects_piece = [&](bool fits) {
    if (!fits) throw Error(model.name(), "vocab of pairs: text and score", "another entry");
  };
  const std::set<std::string> control = control_tokens(file);
  std::vector<Piece> pieces;
  const auto vocabulary = model.json().find("vocab");
  expects_piece(vocabulary != model.json().end() && vocabulary->is_array());
  const auto unknown =
      std::size_t(model.integer("unk_id", 0, std::int64_t(vocabulary->size()) - 1));
  for (const nlohmann::json& entry : *vocabulary) {
    expects_piece(entry.is_array() && entry.size() == 2 && entry[0].is_string() &&
                  entry[1].is_number());
    auto text = entry[0].get<std::string>();
    const Kind kind = pieces.size() == unknown ? Kind::unknown
                      : control.contains(text) ? Kind::control
                                               : Kind::normal;
    pieces.push_back({std::move(text), entry[1].get<float>(), kind});
  }
  return model_of(pieces, characters_of(file));
}

}  // namespace contraflow::unigram
