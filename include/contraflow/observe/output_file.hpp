#pragma once

/// @file
/// Files that observers write record by record.

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/types.h>
#include <unistd.h>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>

namespace contraflow::detail {

/// Whole content of a file that is going to be written.
/// @throws WriteError naming the file when it cannot be read
inline std::string file_content(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw WriteError(path.string(), "a file that can be read", std::strerror(errno));
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// Replaces a file in one step, so that neither a crash nor a reader meets half of it; of the file
/// that a link names, so that the link stays.
/// @param path a file that exists
/// @throws WriteError naming it when it cannot be replaced
inline void replace_content(const std::filesystem::path& path, std::string_view content) {
  std::error_code failure;
  const std::filesystem::path target = std::filesystem::canonical(path, failure);
  if (failure) throw WriteError(path.string(), "a file that can be replaced", failure.message());
  PendingFile file(target.string());
  file.write(content.data(), content.size());
  file.publish();
}

/// Where the record of an epoch begins in a file.
struct EpochRecord {
  std::size_t begin;
  std::int64_t epoch;
};

/// How many bytes of a file a resumed run keeps: all before the first record, of the file's latest
/// run, of an epoch that will be run again.
/// @param records of the file, in its order
/// @param first_epoch with which the run is resumed
/// @param size of the file
inline std::size_t size_before(const std::vector<EpochRecord>& records, std::int64_t first_epoch,
                               std::size_t size) {
  auto run = records.begin();
  for (auto record = run; record != records.end(); ++record) {
    if (record->epoch == 1) run = record;
  }
  const auto again = std::find_if(
      run, records.end(), [&](const EpochRecord& record) { return record.epoch >= first_epoch; });
  return again == records.end() ? size : again->begin;
}

/// The records of a text that has one a line.
/// @param epoch_of called with a line, without its end, gives its epoch or nothing
template <class EpochOf>
std::vector<EpochRecord> epoch_records(std::string_view content, const EpochOf& epoch_of) {
  std::vector<EpochRecord> records;
  for (std::size_t begin = 0, end = 0; begin < content.size(); begin = end + 1) {
    end = std::min(content.find('\n', begin), content.size());
    const std::optional<std::int64_t> epoch = epoch_of(content.substr(begin, end - begin));
    if (epoch) records.push_back({begin, *epoch});
  }
  return records;
}

/// @throws Error naming the picture when its bytes do not begin as a PNG file does, or a size is
/// not positive
inline void expects_picture(std::string_view name, std::string_view png, std::int64_t width,
                            std::int64_t height) {
  const std::string argument = "picture " + std::string(name);
  if (!png.starts_with("\x89PNG\r\n\x1a\n")) {
    throw Error(argument, "the bytes of a PNG file",
                std::to_string(png.size()) + " bytes that begin otherwise");
  }
  if (width > 0 && height > 0) return;
  throw Error(argument, "a width and a height of pixels > 0",
              std::to_string(width) + " x " + std::to_string(height));
}

/// An open file whose every write reaches the system before it returns, so that a reader beside
/// the run, or after its crash, sees whole records.
class OutputFile {
 public:
  /// No file: `is_open()` is false.
  OutputFile() = default;

  /// Opens @p path, emptied. Makes missing parent directories, as the other functions here do.
  /// @throws WriteError naming the path when it cannot be written
  static OutputFile replace(const std::filesystem::path& path) { return {path, "wb"}; }

  /// Opens @p path, which must not exist yet.
  /// @throws WriteError naming the path when it exists or cannot be written
  static OutputFile create(const std::filesystem::path& path) { return {path, "wbx"}; }

  /// Opens @p path at its end. A last line without its newline, which a killed run may have left,
  /// is cut off: what follows would be glued to it.
  /// @throws WriteError naming the path when it cannot be written
  static OutputFile append_lines(const std::filesystem::path& path) {
    OutputFile file(path, "ab");
    if (!std::filesystem::is_regular_file(path)) return file;
    const std::string content = file_content(path);
    const std::size_t whole = content.rfind('\n') + 1;  // npos + 1 is 0
    if (whole < content.size() && ::ftruncate(::fileno(file.stream_.get()), off_t(whole)) != 0) {
      throw WriteError(path.string(), "a file that can be written", std::strerror(errno));
    }
    file.size_ = static_cast<off_t>(whole);
    return file;
  }

  bool is_open() const noexcept { return stream_ != nullptr; }
  /// Bytes that are in it.
  std::size_t size() const noexcept { return static_cast<std::size_t>(size_); }

  /// All of @p bytes or none of them: what comes next may find room again.
  /// @throws WriteError naming the path when not everything could be written
  void write(std::string_view bytes) {
    if (std::fwrite(bytes.data(), 1, bytes.size(), stream_.get()) == bytes.size()) {
      size_ += static_cast<off_t>(bytes.size());
      return;
    }
    const int failure = errno;
    std::clearerr(stream_.get());
    // A pipe has no size; what it has taken is gone.
    if (::ftruncate(::fileno(stream_.get()), size_) == 0) {
      ::fseeko(stream_.get(), size_, SEEK_SET);
    }
    throw WriteError(path_.string(), "a file that can be written", std::strerror(failure));
  }

  void close() noexcept { stream_.reset(); }

 private:
  struct Close {
    void operator()(std::FILE* stream) const noexcept { std::fclose(stream); }
  };

  OutputFile(const std::filesystem::path& path, const char* mode) : path_(path) {
    if (path.has_parent_path()) make_folder(path.parent_path(), path);
    stream_.reset(std::fopen(path.c_str(), mode));
    if (!stream_) {
      throw WriteError(path.string(), "a file that can be written", std::strerror(errno));
    }
    std::setvbuf(stream_.get(), nullptr, _IONBF, 0);
  }

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> stream_;
  off_t size_ = 0;
};

}  // namespace contraflow::detail
