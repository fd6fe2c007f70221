#pragma once

#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>

namespace support {

/// Writes a file, and the folder it is in.
/// @throws contraflow::Error if that cannot be
inline void write_text(const std::filesystem::path& path, const std::string& text) {
  if (path.has_parent_path()) contraflow::make_folder(path.parent_path(), path);
  std::ofstream file(path);
  file << text << std::flush;
  contraflow::expects(file.good(), "--output", "a place that can be written to", path.string());
}

/// The same, and says so.
inline void write_and_say(const std::filesystem::path& path, const std::string& text) {
  write_text(path, text);
  std::cout << "wrote " << path.string() << "\n";
}

}  // namespace support
