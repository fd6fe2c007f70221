#pragma once

/// @file
/// Whether files are the files of before.

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <vector>

#include <contraflow/core/checksum.hpp>
#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>

namespace contraflow {

/// Whether the time of a file's last change counts.
enum class FileTime {
  counts,  ///< of large files: what was computed from them is computed again where in doubt
  ignored  ///< where a copy on another machine is to be the same
};

namespace detail {

/// A checksum of blocks spread over a large file, the first and the last among them.
inline std::uint64_t sampled_checksum(const MappedFile& file) {
  constexpr std::uint64_t blocks = 256, block = std::uint64_t{64} << 10;
  std::vector<std::uint64_t> sums;
  for (std::uint64_t i = 0; i < blocks; ++i) {
    sums.push_back(checksum(file.bytes() + (file.size() - block) * i / (blocks - 1), block));
  }
  return checksum(sums.data(), sums.size() * sizeof(sums[0]));
}

inline std::string fingerprint_of_file(const std::filesystem::path& path, FileTime time) {
  constexpr std::uint64_t read_whole = std::uint64_t{64} << 20;
  const MappedFile file(path.string());
  const std::string size = std::to_string(file.size());
  if (file.size() <= read_whole) {
    return size + "-" + std::to_string(checksum(file.bytes(), file.size()));
  }
  const std::string sampled = size + "-" + std::to_string(sampled_checksum(file));
  if (time == FileTime::ignored) return sampled;
  const auto changed = std::filesystem::last_write_time(path).time_since_epoch().count();
  return sampled + "-" + std::to_string(changed);
}

}  // namespace detail

/// A text that tells a file, or the files of a folder, from those that would stand in their place:
/// for what was computed from them and is kept, such as encoded prompts.
///
/// A file up to 64 MiB is known by its contents: copied or touched it is the same. Of a larger one,
/// which may have many gigabytes, size, time of the last change and 256 blocks of 64 KiB are taken:
/// copied without its time it counts as another, unless the time is ignored. Of a folder, names and
/// files count, without its folders and hidden files. For accidents, not against somebody who means
/// to deceive.
/// @throws Error naming what cannot be read
/// @par Random numbers
/// none
inline std::string fingerprint(const std::filesystem::path& path,
                               FileTime time = FileTime::counts) {
  namespace fs = std::filesystem;
  std::error_code failed;
  if (!fs::is_directory(path, failed)) return detail::fingerprint_of_file(path, time);
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(path, failed)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".") || !entry.is_regular_file(failed)) continue;
    files.emplace(name, detail::fingerprint_of_file(entry.path(), time));
  }
  if (failed) throw Error(path.string(), "a readable folder", failed.message());
  std::string all;
  for (const auto& [name, file] : files) all += name + '\0' + file + '\0';
  return std::to_string(checksum(all.data(), all.size()));
}

}  // namespace contraflow
