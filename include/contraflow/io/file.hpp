#pragma once

/// @file
/// Files as a whole: mapped for reading, or named when they are complete.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <contraflow/core/error.hpp>

namespace contraflow {

namespace detail {

inline std::string system_text(int code) { return std::generic_category().message(code); }

class FileDescriptor {
 public:
  explicit FileDescriptor(int value) : value_(value) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (value_ >= 0) ::close(value_);
  }
  int get() const { return value_; }

 private:
  int value_;
};

}  // namespace detail

/// A whole file in memory, read page by page on first use.
///
/// The file is opened for reading only and the map is private: what is written into the bytes
/// stays in this process and never reaches the file. It must not be truncated by another process
/// meanwhile: reading a page that is gone raises SIGBUS.
class MappedFile {
 public:
  /// @param path an ordinary file, possibly empty
  /// @throws Error naming the path, for a file that cannot be opened or mapped
  explicit MappedFile(const std::string& path) {
    const detail::FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.get() < 0) throw Error(path, "a readable file", detail::system_text(errno));
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) {
      throw Error(path, "a readable file", detail::system_text(errno));
    }
    if (!S_ISREG(status.st_mode)) throw Error(path, "a regular file", "another kind of file");
    size_ = static_cast<std::uint64_t>(status.st_size);
    if (size_ == 0) return;
    void* address =
        ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.get(), 0);
    if (address == MAP_FAILED) {
      throw Error(path, "a file that can be mapped", detail::system_text(errno));
    }
    bytes_ = static_cast<char*>(address);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (bytes_ != nullptr) ::munmap(bytes_, size_);
  }

  /// First byte; null for an empty file.
  char* bytes() const { return bytes_; }
  /// Number of bytes.
  std::uint64_t size() const { return size_; }

 private:
  char* bytes_ = nullptr;
  std::uint64_t size_ = 0;
};

/// Tells the system that a range of memory will not be read soon, and may go back to where it came
/// from. Its contents stay as they are: pages of a mapped file are read again when they are used.
/// @param data first byte
/// @param size number of bytes
inline void release_pages(const void* data, std::uint64_t size) {
#ifdef MADV_PAGEOUT
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + size) / page * page;
  // Advice only: a system that does not take it keeps the pages.
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_PAGEOUT);
#else
  static_cast<void>(data);
  static_cast<void>(size);
#endif
}

/// Makes a folder and its parents where they are missing.
/// @param path of the folder
/// @param named the file or folder for whose sake this is done
/// @throws WriteError naming that, if the folder cannot be made
inline void make_folder(const std::filesystem::path& path, const std::filesystem::path& named) {
  std::error_code failure;
  std::filesystem::create_directories(path, failure);
  if (failure) {
    throw WriteError(named.string(), "a directory that exists or can be made", failure.message());
  }
}
/// The same, for its own sake.
inline void make_folder(const std::filesystem::path& path) { make_folder(path, path); }

/// Brings the names in a folder to the disk.
inline void flush_folder(const std::filesystem::path& path) {
  const std::string name = path.empty() ? "." : path.string();
  const detail::FileDescriptor folder(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some file systems cannot flush a folder; the files themselves are complete either way.
  if (folder.get() >= 0) ::fsync(folder.get());
}

/// A file that takes its name only when it is complete and on the disk.
///
/// It is written beside the place it will take, so a reader sees the old file or the new one and
/// never a part, also after a crash. Destroyed before publish(), it leaves nothing behind; killed,
/// it leaves a hidden file, which is nobody's part of the folder.
class PendingFile {
 public:
  /// @param path file to create or replace
  /// @throws WriteError naming the path, if nothing can be created beside it
  explicit PendingFile(std::string path)
      : path_(std::move(path)),
        pending_(beside(path_)),
        file_(::open(pending_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
    if (file_.get() < 0) {
      throw WriteError(path_, "a file that can be created", detail::system_text(errno));
    }
  }
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  ~PendingFile() {
    if (!published_) ::unlink(pending_.c_str());
  }

  /// Appends bytes.
  /// @throws WriteError naming the path, e.g. for a full disk
  void write(const void* data, std::uint64_t size) {
    const char* next = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t written =
          ::write(file_.get(), next, std::min<std::uint64_t>(size, std::uint64_t{1} << 30));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) throw WriteError(path_, "a writable file", detail::system_text(errno));
      next += written;
      size -= static_cast<std::uint64_t>(written);
    }
  }

  /// Makes the file longer, by zeros that take no room until they are written over.
  /// @param size in bytes, not below what was written
  /// @throws WriteError naming the path, if the file cannot be so long
  void grow(std::uint64_t size) {
    if (::ftruncate(file_.get(), static_cast<off_t>(size)) != 0) {
      throw WriteError(path_, "a file that can grow", detail::system_text(errno));
    }
  }

  /// Flushes the file to the disk and gives it its name.
  /// @throws WriteError naming the path, if it cannot be flushed or renamed
  void publish() {
    if (::fsync(file_.get()) != 0) throw WriteError(path_, "a disk", detail::system_text(errno));
    if (::rename(pending_.c_str(), path_.c_str()) != 0) {
      throw WriteError(path_, "a file that can be replaced", detail::system_text(errno));
    }
    published_ = true;
    flush_folder(std::filesystem::path(path_).parent_path());
  }

 private:
  static std::string beside(const std::filesystem::path& path) {
    const std::string name = "." + path.filename().string() + ".partial-" +
                             std::to_string(::getpid()) + "-" + std::to_string(count_.fetch_add(1));
    return (path.parent_path() / name).string();
  }

  // Threads that write the same path must not share the file beside it.
  inline static std::atomic<std::uint64_t> count_ = 0;

  std::string path_, pending_;
  detail::FileDescriptor file_;
  bool published_ = false;
};

/// Writes a whole file, which appears under its name only when it is complete.
/// @param path file to create or replace
/// @param bytes its contents
/// @throws WriteError naming the path, if it cannot be written
inline void write_file(const std::filesystem::path& path, std::string_view bytes) {
  PendingFile file(path.string());
  file.write(bytes.data(), bytes.size());
  file.publish();
}

}  // namespace contraflow
