#pragma once

/// @file
/// An observer that writes the pictures of reports as files.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>

#include <contraflow/io/file.hpp>
#include <contraflow/observe/report.hpp>

namespace contraflow {

/// Observer that writes every picture of a report as `<directory>/<name>-<epoch>.png`.
///
/// A "/" in a name makes a folder. A file appears under its name only when it is complete; one that
/// is there already is replaced.
/// @throws Error naming the file that cannot be written, or a name that leads out of the directory
struct PictureFiles {
  std::filesystem::path directory;  ///< is made where it is missing

  /// Writes the pictures of a report.
  void operator()(const EpochReport& report) const {
    for (const Picture& picture : report.pictures) {
      const std::filesystem::path path = file_of(picture.name, report.epoch);
      std::error_code failure;
      std::filesystem::create_directories(path.parent_path(), failure);
      if (failure) throw Error(path.string(), "a folder that can be made", failure.message());
      PendingFile file(path.string());
      file.write(picture.png.data(), picture.png.size());
      file.publish();
    }
  }

 private:
  /// Epochs have five digits or more, so that files are in order.
  std::filesystem::path file_of(const std::string& name, std::int64_t epoch) const {
    const std::filesystem::path inside(name);
    const bool leads_out = inside.is_absolute() || !inside.has_filename() ||
                           std::find(inside.begin(), inside.end(), "..") != inside.end();
    expects(!leads_out, "picture", "a name that stays within the directory", name);
    const std::string number = std::to_string(epoch);
    const std::string zeros(number.size() < 5 ? 5 - number.size() : 0, '0');
    return directory / (name + "-" + zeros + number + ".png");
  }
};

}  // namespace contraflow
