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

/// Observer that writes the pictures of reports as PNG files: for those who look at a folder.
///
/// A file is called `<name>-<epoch>.png`, the epoch in eight digits, so that a listing is in order.
/// Characters of the picture's name other than ASCII letters, digits and `.`, `-`, `_` become `_`;
/// so no name leads out of the directory. A name that an epoch has twice gets a number. A file
/// appears when it is complete; one of an earlier run of the same name is replaced.
///
/// @throws Error from `start` when the directory cannot be made; from a report, naming the picture
/// when its bytes are not those of a PNG file, or the file when it cannot be written
///
/// Draws no random numbers.
struct PictureFiles {
  std::filesystem::path directory;  ///< is made, with its parents, where it is missing

  /// Makes the directory.
  void start(const RunInfo&) const {
    if (directory.empty())
      throw Error("PictureFiles.directory", "a folder for pictures", "nothing");
    detail::make_directories(directory, directory);
  }

  /// Writes the pictures of a report.
  void operator()(const EpochReport& report) const {
    std::set<std::string> taken;
    for (const Picture& picture : report.pictures) {
      detail::expects_picture(picture.name, picture.png, picture.width, picture.height);
      std::string stem = safe(picture.name);
      for (int n = 2; !taken.insert(stem).second; ++n) {
        stem = safe(picture.name) + '-' + std::to_string(n);
      }
      PendingFile file((directory / (stem + '-' + digits(report.epoch) + ".png")).string());
      file.write(picture.png.data(), picture.png.size());
      file.publish();
    }
  }

 private:
  /// A name for a file: without separators, not hidden, and not longer than file systems allow.
  static std::string safe(std::string_view name) {
    constexpr std::size_t longest = 200;
    std::string text(name.substr(0, longest));
    std::replace_if(
        text.begin(), text.end(), [](char c) { return !is_safe(c); }, '_');
    if (text.empty()) return "picture";
    if (text.front() == '.') text.front() = '_';
    return text;
  }
  static bool is_safe(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_';
  }
  static std::string digits(std::int64_t epoch) {
    const std::string number = std::to_string(epoch);
    return std::string(number.size() < 8 ? 8 - number.size() : 0, '0') + number;
  }
};

}  // namespace contraflow
