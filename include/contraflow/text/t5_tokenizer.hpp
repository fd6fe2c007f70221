#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <sentencepiece_processor.h>

#include <contraflow/core/error.hpp>
#include <contraflow/io/base64.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/text/tokens.hpp>

/// @file
/// T5's tokenizer: a unigram model over Unicode, in SentencePiece's file format.

namespace contraflow {

namespace unigram {

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

inline std::string characters_of(const Settings& file) {
  if (!file.has("normalizer")) return {};
  const Settings normalizer = file.section("normalizer");
  const std::string type = normalizer.text("type");
  if (type != "Precompiled") throw Error(normalizer.name(), "type Precompiled", type);
  const auto bytes = decode_base64(normalizer.text("precompiled_charsmap"));
  return {bytes.begin(), bytes.end()};
}

// The model in tokenizer.json, the only file that newer releases of transformers write.
inline std::string read_single_file(const std::filesystem::path& path) {
  const Settings file(path);
  const Settings model = file.section("model");
  const auto expects_piece = [&](bool fits) {
    if (!fits) throw Error(model.name(), "vocab of pairs: text and score", "another entry");
  };
  std::set<std::string> added;
  for (const nlohmann::json& token : file.json().value("added_tokens", nlohmann::json::array())) {
    added.insert(Settings(token, file.name() + ": added_tokens").text("content"));
  }
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
                      : added.contains(text)   ? Kind::control
                                               : Kind::normal;
    pieces.push_back({std::move(text), entry[1].get<float>(), kind});
  }
  return model_of(pieces, characters_of(file));
}

}  // namespace unigram

/// T5's tokenizer: captions to ids of a window that ends with a token of its own and is padded.
///
/// The model normalises the caption and picks its most probable segmentation (Kudo, 2018). Tokens
/// such as "</s>" or "<extra_id_0>" written out in a caption are ordinary text.
///
/// Bytes that are not UTF-8 count as U+FFFD. Encoding is const and safe for any number of threads;
/// copies share the model. No random numbers.
class T5Tokenizer {
 public:
  /// @param path the model, or a folder that holds it as spiece.model, or else tokenizer.json
  /// @param length tokens of the window, at least 1; Stable Diffusion 3's pipeline uses 256, its
  ///   published trainers 128
  /// @throws Error naming the file, for one that is no model or has no end of text
  explicit T5Tokenizer(const std::filesystem::path& path, std::int64_t length = 256)
      : length_(length) {
    expects(length >= 1, "length", "at least 1", length);
    const bool is_folder = std::filesystem::is_directory(path);
    const std::filesystem::path model = is_folder ? path / "spiece.model" : path;
    const std::filesystem::path single = path / "tokenizer.json";
    if (is_folder && !std::filesystem::exists(model) && std::filesystem::exists(single)) {
      load(unigram::read_single_file(single), single.string());
      return;
    }
    const MappedFile file(model.string());
    load({file.bytes(), file.size()}, model.string());
  }

  /// Number of tokens in the window.
  std::int64_t length() const { return length_; }
  /// Id of the token that fills the window.
  std::int64_t pad_id() const { return pad_; }
  /// Number of tokens of the model.
  std::int64_t vocabulary_size() const { return processor_->GetPieceSize(); }

  /// @param caption UTF-8 of at most 1 MiB
  /// @return length() ids: the caption's tokens as far as they fit, end, padding
  /// @throws Error for a longer caption
  TokenIds encode(const std::string& caption) const {
    std::string text;
    detail::utf16(caption).toUTF8String(text);
    std::vector<int> ids;
    const auto status = processor_->Encode(text, &ids);
    if (!status.ok()) throw Error("caption", "a text the model can segment", status.ToString());
    return detail::fitted({}, {ids.begin(), ids.end()}, end_, pad_, length_);
  }

  /// All captions at once.
  /// @par Shape
  /// ids of the result: int64 [captions, length()]
  TokenBatch encode(const std::vector<std::string>& captions) const {
    return detail::encode_all(*this, captions);
  }

 private:
  void load(std::string_view model, const std::string& source) {
    auto processor = std::make_shared<sentencepiece::SentencePieceProcessor>();
    const auto status = processor->LoadFromSerializedProto({model.data(), model.size()});
    if (!status.ok()) throw Error(source, "a SentencePiece model", status.ToString());
    end_ = processor->eos_id();
    if (end_ < 0) throw Error(source, "a model with the token </s>", "none");
    pad_ = std::max(processor->pad_id(), 0);
    processor_ = std::move(processor);
  }

  std::int64_t length_, end_ = 1, pad_ = 0;
  std::shared_ptr<const sentencepiece::SentencePieceProcessor> processor_;
};

/// Writes a unigram model that T5Tokenizer, SentencePiece and transformers read.
///
/// Ids 0, 1 and 2 are "<pad>", "</s>" and "<unk>", as in T5; the pieces follow in order. For models
/// with random weights and for tests: nothing is learnt here.
/// @param path file to write or replace
/// @param pieces texts, in which U+2581 stands for a space, and log-probabilities
/// @throws Error for a file that cannot be written
inline void write_unigram_model(const std::filesystem::path& path,
                                const std::vector<std::pair<std::string, float>>& pieces) {
  using namespace unigram;
  std::vector<Piece> all{
      {"<pad>", 0, Kind::control}, {"</s>", 0, Kind::control}, {"<unk>", 0, Kind::unknown}};
  for (const auto& [text, score] : pieces) all.push_back({text, score, Kind::normal});
  write_file(path, model_of(all));
}

}  // namespace contraflow
