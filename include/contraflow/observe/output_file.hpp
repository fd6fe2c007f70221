#pragma once

/// @file
/// Files that observers write record by record.

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <contraflow/core/error.hpp>

namespace contraflow::detail {

/// Whole content of a file.
/// @throws Error naming the file when it cannot be read
inline std::string file_content(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path.string(), "a file that can be read", std::strerror(errno));
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// An open file whose every write reaches the system before it returns, so that a reader beside
/// the run, or after its crash, sees whole records.
class OutputFile {
 public:
  /// No file: `is_open()` is false.
  OutputFile() = default;

  /// Opens @p path, emptied. Makes missing parent directories, as the other functions here do.
  /// @throws Error naming the path when it cannot be written
  static OutputFile replace(const std::filesystem::path& path) { return {path, "wb"}; }

  /// Opens @p path, which must not exist yet.
  /// @throws Error naming the path when it exists or cannot be written
  static OutputFile create(const std::filesystem::path& path) { return {path, "wbx"}; }

  /// Opens @p path at its end. A last line without its newline, which a killed run may have left,
  /// is cut off: what follows would be glued to it.
  /// @throws Error naming the path when it cannot be written
  static OutputFile append_lines(const std::filesystem::path& path) {
    OutputFile file(path, "ab");
    if (!std::filesystem::is_regular_file(path)) return file;
    const std::string content = file_content(path);
    const std::size_t whole = content.rfind('\n') + 1;  // npos + 1 is 0
    if (whole < content.size()) std::filesystem::resize_file(path, whole);
    return file;
  }

  bool is_open() const noexcept { return stream_ != nullptr; }

  /// @throws Error naming the path when not everything could be written
  void write(std::string_view bytes) {
    const bool written = std::fwrite(bytes.data(), 1, bytes.size(), stream_.get()) == bytes.size();
    if (!written || std::fflush(stream_.get()) != 0) {
      throw Error(path_.string(), "a file that can be written", std::strerror(errno));
    }
  }

  void close() noexcept { stream_.reset(); }

 private:
  struct Close {
    void operator()(std::FILE* stream) const noexcept { std::fclose(stream); }
  };

  OutputFile(const std::filesystem::path& path, const char* mode) : path_(path) {
    if (path.has_parent_path()) {
      std::error_code failure;
      std::filesystem::create_directories(path.parent_path(), failure);
      if (failure) {
        throw Error(path.string(), "a directory that exists or can be made", failure.message());
      }
    }
    stream_.reset(std::fopen(path.c_str(), mode));
    if (!stream_) throw Error(path.string(), "a file that can be written", std::strerror(errno));
  }

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> stream_;
};

}  // namespace contraflow::detail
