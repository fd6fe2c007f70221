#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <sentencepiece_processor.h>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/text/tokens.hpp>
#include <contraflow/text/unigram_check.hpp>
#include <contraflow/text/unigram_files.hpp>

/// @file
/// T5's tokenizer: a unigram model over Unicode, in SentencePiece's file format.

namespace contraflow {

/// T5's tokenizer: captions to ids of a window that ends with a token of its own and is padded.
///
/// The model normalises the caption and picks its most probable segmentation (Kudo, 2018). Tokens
/// such as "</s>" or "<extra_id_0>" written out in a caption are ordinary text.
///
/// Bytes that are not UTF-8 count as U+FFFD. Encoding is const and safe for any number of threads;
/// copies share the model. No random numbers.
class T5Tokenizer {
 public:
  /// @param path the model, as spiece.model or as tokenizer.json; or a folder that holds one of
  ///   them, the first before the second
  /// @param length tokens of the window, at least 1; Stable Diffusion 3's pipeline uses 256, its
  ///   published trainers 128
  /// @throws Error naming the file, for one that is no model or has no end of text
  explicit T5Tokenizer(const std::filesystem::path& path, std::int64_t length = 256)
      : length_(length) {
    expects(length >= 1, "length", "at least 1", length);
    const std::filesystem::path model = model_file(path);
    if (model.extension() == ".json") {
      load(unigram::read_single_file(model), model.string());
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
  static std::filesystem::path model_file(const std::filesystem::path& path) {
    std::error_code unreadable;
    if (!std::filesystem::is_directory(path, unreadable)) return path;
    const std::filesystem::path single = path / "tokenizer.json", model = path / "spiece.model";
    const bool has_single_alone =
        !std::filesystem::exists(model, unreadable) && std::filesystem::exists(single, unreadable);
    return has_single_alone ? single : model;
  }

  void load(std::string_view model, const std::string& source) {
    unigram::expects_sound_model(model, source);
    auto processor = std::make_shared<sentencepiece::SentencePieceProcessor>();
    try {
      const auto status = processor->LoadFromSerializedProto({model.data(), model.size()});
      if (!status.ok()) throw Error(source, "a SentencePiece model", status.ToString());
    } catch (const Error&) {
      throw;
    } catch (const std::exception& failure) {  // of Darts, for texts that it takes no trie of
      throw Error(source, "a SentencePiece model", failure.what());
    }
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
