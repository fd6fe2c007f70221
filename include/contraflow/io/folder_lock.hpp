#pragma once

/// @file
/// A folder that one process works in.

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <contraflow/core/error.hpp>

namespace contraflow {

/// Keeps other processes that ask for it out of a folder while it lives, or until its process ends,
/// in whatever way: for a run, so that a second one does not write into its files.
///
/// The lock is one of the system's on a hidden file, `.lock`, which stays behind and means nothing.
/// On a file system without locks nobody is kept out.
class FolderLock {
 public:
  /// @param folder that exists
  /// @throws Error if another process has it, or its file cannot be written
  explicit FolderLock(const std::filesystem::path& folder) {
    const std::string file = (folder / ".lock").string();
    descriptor_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor_ < 0) throw Error(file, "a file that can be written", std::strerror(errno));
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
    ::close(std::exchange(descriptor_, -1));
    throw Error(folder.string(), "a folder that no other program is at work in",
                "one with a run under way");
  }
  /// Takes over what the other keeps.
  FolderLock(FolderLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FolderLock& operator=(FolderLock&&) = delete;
  ~FolderLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

 private:
  int descriptor_ = -1;
};

}  // namespace contraflow
