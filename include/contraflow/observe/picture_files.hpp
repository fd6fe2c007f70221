#pragma once

/// @file
/// An observer that writes pictures.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/observe/output_file.hpp>
#include <contraflow/observe/report.hpp>

namespace contraflow {

/// Observer that writes every picture of a report as `<directory>/<name>-<epoch>.png`: for those
/// who look at a folder.
///
/// The epoch has five digits or more, so that files are in order. A "/" in the name makes a folder;
/// characters other than ASCII letters, digits and `.`, `-`, `_` become `_`, and so does a dot at
/// the beginning: no name leads out of the directory. A name that an epoch has twice gets a number.
/// A file appears when it is complete; one that is there already is replaced.
///
/// @throws Error from `start` when the directory cannot be made; from a report, naming the picture
/// when its bytes are not those of a PNG file, or the file when it cannot be written
///
/// Draws no random numbers.
struct PictureFiles {
  std::filesystem::path directory;  ///< is made, with its parents, where it is missing

  /// Makes the directory.
  void start(const RunInfo&) const {
    if (directory.empty()) {
      throw Error("PictureFiles.directory", "a folder for pictures", "nothing");
    }
    make_folder(directory);
  }

  /// Writes the pictures of a report.
  void operator()(const EpochReport& report) const {
    std::set<std::filesystem::path> taken;
    for (const Picture& picture : report.pictures) {
      detail::expects_picture(picture.name, picture.png, picture.width, picture.height);
      const std::filesystem::path path = free_path(directory / safe(picture.name), report, taken);
      make_folder(path.parent_path(), path);
      PendingFile file(path.string());
      file.write(picture.png.data(), picture.png.size());
      file.publish();
    }
  }

 private:
  static std::filesystem::path free_path(const std::filesystem::path& beginning,
                                         const EpochReport& report,
                                         std::set<std::filesystem::path>& taken) {
    const std::string epoch = std::to_string(report.epoch);
    const std::string end =
        '-' + std::string(epoch.size() < 5 ? 5 - epoch.size() : 0, '0') + epoch + ".png";
    std::filesystem::path path = beginning.string() + end;
    for (int n = 2; !taken.insert(path).second; ++n) {
      path = beginning.string() + '-' + std::to_string(n) + end;
    }
    return path;
  }

  /// The folders and the file of a name: none of them hidden, or longer than file systems allow.
  static std::filesystem::path safe(std::string_view name) {
    std::filesystem::path path;
    while (!name.empty()) {
      const std::size_t end = std::min(name.find('/'), name.size());
      if (end > 0) path /= safe_part(name.substr(0, end));
      name.remove_prefix(std::min(end + 1, name.size()));
    }
    return path.empty() ? "picture" : path;
  }
  static std::string safe_part(std::string_view part) {
    constexpr std::size_t longest = 200;
    std::string text(part.substr(0, longest));
    std::replace_if(
        text.begin(), text.end(), [](char c) { return !is_safe(c); }, '_');
    if (text.front() == '.') text.front() = '_';
    return text;
  }
  static bool is_safe(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_';
  }
};

}  // namespace contraflow
