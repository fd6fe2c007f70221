#pragma once

/// @file
/// Prompts that are encoded when they are first asked for, and kept on disk.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/ops/_unique2.h>
#include <ATen/ops/stack.h>

#include <contraflow/core/checksum.hpp>
#include <contraflow/io/row_file.hpp>
#include <contraflow/network/text_condition.hpp>

namespace contraflow::pipeline {

/// Encodes captions, at least one, to a row each; a caption's row does not depend on the others.
using EncodeCaptions = std::function<TextCondition(const std::vector<std::string>&)>;

/// Encoded prompts in a file with a row each, for more prompts than memory holds: a row is encoded
/// when it is first asked for, read from the file when it is asked for again, also by another run,
/// and never held.
///
/// A run that is killed loses at most the rows that are being encoded. The file is begun anew where
/// captions or source are others. Safe for any number of threads, one at a time.
class PromptStore {
 public:
  /// @param path safetensors file, see RowFile
  /// @param captions at least one
  /// @param source what they are encoded with; has to be the same when the file is read
  /// @param encode called for captions that are not in the file, at most @p together at once
  /// @param together bounds the memory of encoding, at least 1
  PromptStore(std::filesystem::path path, std::vector<std::string> captions,
              const std::string& source, EncodeCaptions encode, std::int64_t together = 64)
      : path_(std::move(path)),
        captions_(std::move(captions)),
        metadata_{{"captions", summary_of(captions_)}, {"source", source}},
        encode_(std::move(encode)),
        together_(together) {
    expects(!captions_.empty(), "captions", "at least one", 0);
    expects(together >= 1, "together", "at least 1", together);
  }

  /// Number of captions.
  std::int64_t size() const { return std::int64_t(captions_.size()); }

  /// Encodes those of the prompts @p ids, int64 [B], that are not in the file yet: together, which
  /// costs less than one after the other.
  /// @throws Error if there is no such prompt, or the file cannot be written
  void prepare(const Tensor& ids) const {
    if (ids.numel() == 0) return;  // of a rank that has nothing to do
    const std::scoped_lock lock(mutex_);
    encode_missing(distinct(ids));
  }

  /// The rows @p ids, int64 [B], on the CPU.
  /// @throws Error if there is no such prompt, or the file cannot be read or written
  TextCondition condition(const Tensor& ids) const {
    const std::scoped_lock lock(mutex_);
    const std::vector<std::int64_t> rows = distinct(ids);
    encode_missing(rows);
    std::vector<Tensor> sequences, pooled;
    for (const std::int64_t row : rows) {
      auto values = file_->read(row);
      if (!values) throw Error(path_.string(), "the row that was written", "another");
      sequences.push_back(values->at("sequence"));
      pooled.push_back(values->at("pooled"));
    }
    const Tensor place = std::get<1>(at::_unique2(numbers(ids), true, true));
    return {at::stack(sequences).index_select(0, place), at::stack(pooled).index_select(0, place)};
  }

 private:
  /// Tells lists of captions from each other, whatever bytes are in them.
  static std::string summary_of(const std::vector<std::string>& captions) {
    std::vector<std::uint64_t> sums;
    for (const std::string& caption : captions) {
      sums.push_back(checksum(caption.data(), caption.size()));
    }
    return std::to_string(sums.size()) + ", checksum " +
           std::to_string(checksum(sums.data(), sums.size() * sizeof(std::uint64_t)));
  }

  static Tensor numbers(const Tensor& ids) { return ids.to(at::kCPU, at::kLong).contiguous(); }

  /// In rising order.
  std::vector<std::int64_t> distinct(const Tensor& ids) const {
    const Tensor sorted = std::get<0>(at::_unique2(numbers(ids)));
    const auto* first = data_of<const std::int64_t>(sorted);
    std::vector<std::int64_t> rows(first, first + sorted.numel());
    const bool fits = !rows.empty() && rows.front() >= 0 && rows.back() < size();
    if (!fits) {
      throw Error("ids", "numbers in [0, " + shown(size()) + ")",
                  rows.empty() ? "none" : shown(rows.front()) + " to " + shown(rows.back()));
    }
    return rows;
  }

  void encode_missing(const std::vector<std::int64_t>& rows) const {
    if (!file_) file_ = RowFile::open(path_, metadata_);
    std::vector<std::int64_t> missing;
    for (const std::int64_t row : rows) {
      if (!file_ || !file_->read(row)) missing.push_back(row);
    }
    for (std::size_t first = 0; first < missing.size(); first += std::size_t(together_)) {
      const std::size_t last = std::min(missing.size(), first + std::size_t(together_));
      encode({missing.begin() + std::ptrdiff_t(first), missing.begin() + std::ptrdiff_t(last)});
    }
  }

  void encode(const std::vector<std::int64_t>& rows) const {
    std::vector<std::string> captions;
    for (const std::int64_t row : rows) captions.push_back(captions_[std::size_t(row)]);
    const TextCondition encoded = encode_(captions);
    const std::int64_t count = batch_size(encoded);
    expects(count == std::int64_t(rows.size()), "encode", "a row a caption", count);
    const Tensor sequence = encoded.sequence.to(at::kCPU), pooled = encoded.pooled.to(at::kCPU);
    // Another process may have begun the file while this one was encoding.
    if (!file_) file_ = RowFile::open(path_, metadata_);
    if (!file_) {
      const auto row_of = [](const char* name, const Tensor& all) {
        return TensorInfo{name, all.scalar_type(), all[0].sizes().vec()};
      };
      file_ = RowFile::create(path_, size(),
                              {row_of("sequence", sequence), row_of("pooled", pooled)}, metadata_);
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      file_->write(rows[i],
                   {{"sequence", sequence[std::int64_t(i)]}, {"pooled", pooled[std::int64_t(i)]}});
    }
  }

  std::filesystem::path path_;
  std::vector<std::string> captions_;
  std::map<std::string, std::string> metadata_;
  EncodeCaptions encode_;
  std::int64_t together_;
  mutable std::mutex mutex_;
  mutable std::optional<RowFile> file_;
};

/// Prompts that are encoded with the encoders of a folder when they are first asked for, and kept
/// on disk: for more of them than memory holds, and for runs that go on after a kill. They pass the
/// encoders one by one, so that a row has the bits of encode_prompts() with `at_once` 1, whatever
/// others are asked for.
/// @param folder of a model, with its text encoders and their tokenizers: sd3::Folder, flux::Folder
/// @param path of the file, see PromptStore; stale where the model's prompt_source() is another
/// @param captions at least one
/// @param options how, the model's PromptOptions, without `at_once`
/// @param warn told of each caption that is cut, when it is encoded; owned by the result
/// @return rows for StoredPrompts
/// @throws Error naming a component that is missing or cannot be read
template <class Folder, class Options, class Warn>
std::shared_ptr<const PromptStore> stored_prompts(const Folder& folder,
                                                  const std::filesystem::path& path,
                                                  std::vector<std::string> captions,
                                                  Options options, Warn warn) {
  options.at_once = 1;
  const auto encode = [folder, options, warn](const std::vector<std::string>& some) {
    return encode_prompts(folder, some, options, warn);
  };
  return std::make_shared<const PromptStore>(path, std::move(captions),
                                             prompt_source(folder, options), encode);
}

/// A PromptSource over rows of a PromptStore, with a reference a prompt for rewards.
/// @tparam R a list with an entry a prompt, such as of captions or JSON records
template <class R>
class StoredPrompts {
 public:
  /// @param store shared by the sources that read from it
  /// @param first row of the first prompt
  /// @param references of the prompts, at least one
  /// @throws Error if the store has not as many rows
  StoredPrompts(std::shared_ptr<const PromptStore> store, std::int64_t first, R references)
      : store_(std::move(store)), first_(first), references_(std::move(references)) {
    expects(size() >= 1, "references", "at least one", size());
    expects(first >= 0 && first + size() <= store_->size(), "references",
            "at most as many as rows of the store", first + size());
  }

  /// Number of prompts.
  std::int64_t size() const { return batch_size(references_); }
  /// Encodes what is missing of the prompts @p ids, int64 [B].
  void prepare(const Tensor& ids) const { store_->prepare(ids + first_); }
  /// The encoded prompts @p ids, int64 [B].
  TextCondition condition(const Tensor& ids) const { return store_->condition(ids + first_); }
  /// The references @p ids, int64 [B].
  R reference(const Tensor& ids) const { return select(references_, ids); }

 private:
  std::shared_ptr<const PromptStore> store_;
  std::int64_t first_;
  R references_;
};

}  // namespace contraflow::pipeline
