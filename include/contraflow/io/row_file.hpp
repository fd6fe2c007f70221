#pragma once

/// @file
/// Rows of tensors in a file that is filled row by row.

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <contraflow/core/checksum.hpp>
#include <contraflow/core/error.hpp>
#include <contraflow/core/tensor.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/safetensors_header.hpp>
#include <contraflow/io/safetensors_writer.hpp>

namespace contraflow {

/// A safetensors file of tensors [rows, ...] that is filled row by row, in any order, and read the
/// same way: for what is larger than memory, takes long to compute, and should survive a kill.
///
/// Each row has a checksum in a tensor `checksum`, which is written behind it: a row that was not
/// written whole does not exist. Rows that are missing take no room on the disk. Several processes
/// may have the file open; who writes a row that another writes has to write the same. Copies share
/// the file. Const functions are safe for any number of threads.
class RowFile {
 public:
  /// Begins a file, in the place of any other.
  /// @param path file to write or replace
  /// @param rows number of rows, at least 1
  /// @param tensors of one row: names, dtypes, shapes
  /// @param metadata texts that open() compares
  /// @throws Error naming the path, if it cannot be written, or as SafetensorsWriter does
  static RowFile create(const std::filesystem::path& path, std::int64_t rows,
                        std::vector<TensorInfo> tensors,
                        const std::map<std::string, std::string>& metadata) {
    expects(rows >= 1, "rows", "at least 1", rows);
    // First, where whole numbers of eight bytes are aligned.
    tensors.insert(tensors.begin(), TensorInfo{sums, at::kLong, {}});
    std::uint64_t bytes = 0;
    for (TensorInfo& info : tensors) {
      info.shape.insert(info.shape.begin(), rows);
      bytes += safetensors::bytes_of(info);
    }
    const std::string header = safetensors::header_text(tensors, metadata);
    const std::uint64_t length = header.size();
    PendingFile pending(path.string());
    pending.write(&length, sizeof length);
    pending.write(header.data(), length);
    pending.grow(sizeof length + length + bytes);
    pending.publish();
    auto file = open(path, metadata);
    if (!file) throw Error(path.string(), "the file that was just written", "another");
    return *std::move(file);
  }

  /// Opens a file that create() began.
  /// @return nothing, if there is none, if its metadata are others, or if it is damaged
  static std::optional<RowFile> open(const std::filesystem::path& path,
                                     const std::map<std::string, std::string>& metadata) {
    std::error_code unreadable;
    if (!std::filesystem::is_regular_file(path, unreadable)) return std::nullopt;
    try {
      RowFile file(path);
      if (file.metadata_ != metadata) return std::nullopt;
      return file;
    } catch (const Error&) {
      return std::nullopt;
    }
  }

  /// Number of rows, written or not.
  std::int64_t size() const { return rows_; }

  /// A row.
  /// @param row in [0, size())
  /// @return its tensors by name, or nothing if it was not written whole
  /// @throws Error naming the file, if it cannot be read
  std::optional<std::map<std::string, at::Tensor>> read(std::int64_t row) const {
    std::map<std::string, at::Tensor> tensors;
    for (const Part& part : parts_) {
      at::Tensor value = at::empty(part.info.shape, part.info.dtype);
      transfer(::pread, value.mutable_data_ptr(), part.bytes, part.place(row));
      tensors.emplace(part.info.name, std::move(value));
    }
    std::uint64_t written = 0;
    transfer(::pread, &written, sizeof written, sum_place(row));
    if (written != sum_of(tensors, row)) return std::nullopt;
    return tensors;
  }

  /// Writes a row.
  /// @param row in [0, size())
  /// @param tensors by name, of the dtypes and shapes that create() was told, on any device
  /// @throws Error naming the tensor that does not fit, or the file that cannot be written
  void write(std::int64_t row, const std::map<std::string, at::Tensor>& tensors) const {
    std::map<std::string, at::Tensor> values;
    for (const Part& part : parts_) {
      const auto found = tensors.find(part.info.name);
      if (found == tensors.end()) throw Error("tensors", part.info.name, "none");
      const at::Tensor& given = found->second;
      const bool fits = given.sizes() == at::IntArrayRef(part.info.shape) &&
                        given.scalar_type() == part.info.dtype;
      if (!fits) {
        throw Error(
            part.info.name,
            shown(at::IntArrayRef(part.info.shape)) + " of " + c10::toString(part.info.dtype),
            shape_text(given) + " of " + c10::toString(given.scalar_type()));
      }
      values.emplace(part.info.name, given.detach().to(at::kCPU).contiguous());
    }
    for (const Part& part : parts_) {
      void* data = values.at(part.info.name).data_ptr();
      transfer(::pwrite, data, part.bytes, part.place(row));
    }
    std::uint64_t sum = sum_of(values, row);
    transfer(::pwrite, &sum, sizeof sum, sum_place(row));
  }

 private:
  static constexpr const char* sums = "checksum";

  struct Part {
    std::uint64_t begin, bytes;  ///< of the first row
    TensorInfo info;             ///< of one row
    std::uint64_t place(std::int64_t row) const { return begin + std::uint64_t(row) * bytes; }
  };

  explicit RowFile(const std::filesystem::path& path)
      : path_(path.string()),
        file_(std::make_shared<detail::FileDescriptor>(::open(path.c_str(), O_RDWR | O_CLOEXEC))) {
    struct stat status {};
    if (file_->get() < 0 || ::fstat(file_->get(), &status) != 0) {
      throw Error(path_, "a file that can be read and written", detail::system_text(errno));
    }
    const auto size = std::uint64_t(status.st_size);
    std::uint64_t length = 0;
    transfer(::pread, &length, sizeof length, 0);
    if (length > safetensors::max_header || length + sizeof length > size) {
      throw Error(path_, "a header inside the file", std::to_string(length));
    }
    std::string text(length, ' ');
    transfer(::pread, text.data(), length, sizeof length);
    safetensors::Header header = safetensors::parse_header(path_, text.data(), length);
    data_ = sizeof length + length;
    safetensors::check_layout(path_, header, size - data_);
    metadata_ = std::move(header.metadata);
    const auto found = header.entries.find(sums);
    const bool has_rows = found != header.entries.end() && found->second.dtype == "I64" &&
                          found->second.shape.size() == 1 && found->second.shape[0] >= 1;
    if (!has_rows) throw Error(path_, "a file of rows, with their checksums", "none");
    rows_ = std::int64_t(found->second.shape[0]);
    sums_ = data_ + found->second.data_offsets[0];
    header.entries.erase(found);
    for (const auto& [name, entry] : header.entries) parts_.push_back(part_of(name, entry));
  }

  Part part_of(const std::string& name, const safetensors::Entry& entry) const {
    const auto dtype = std::find_if(safetensors::dtypes.begin(), safetensors::dtypes.end(),
                                    [&](const auto& known) { return known.name == entry.dtype; });
    const bool has_rows = !entry.shape.empty() && std::int64_t(entry.shape[0]) == rows_;
    if (!has_rows) throw Error(path_, "as many rows of each tensor", excerpt(name));
    return {data_ + entry.data_offsets[0],
            (entry.data_offsets[1] - entry.data_offsets[0]) / std::uint64_t(rows_),
            TensorInfo{name, dtype->type, {entry.shape.begin() + 1, entry.shape.end()}}};
  }

  std::uint64_t sum_place(std::int64_t row) const {
    return sums_ + std::uint64_t(row) * sizeof(std::uint64_t);
  }

  /// Never that of a row of zeros and no checksum.
  static std::uint64_t sum_of(const std::map<std::string, at::Tensor>& tensors, std::int64_t row) {
    std::vector<std::uint64_t> all{std::uint64_t(row)};
    for (const auto& [name, value] : tensors) {
      all.push_back(checksum(value.const_data_ptr(), value.nbytes()));
    }
    return checksum(all.data(), all.size() * sizeof(all[0])) | 1;
  }

  /// Reads or writes all bytes at a place of the file.
  template <class Call>
  void transfer(Call call, void* data, std::uint64_t size, std::uint64_t place) const {
    auto* next = static_cast<char*>(data);
    while (size > 0) {
      const ssize_t done = call(file_->get(), next, size, off_t(place));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) {
        throw Error(path_, "a file that can be read and written",
                    done < 0 ? detail::system_text(errno) : "its end");
      }
      next += done;
      place += std::uint64_t(done);
      size -= std::uint64_t(done);
    }
  }

  std::string path_;
  std::shared_ptr<detail::FileDescriptor> file_;
  std::map<std::string, std::string> metadata_;
  std::vector<Part> parts_;
  std::int64_t rows_ = 0;
  std::uint64_t data_ = 0, sums_ = 0;
};

}  // namespace contraflow
