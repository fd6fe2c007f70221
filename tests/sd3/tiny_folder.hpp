#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include <contraflow/sd3/random_folder.hpp>

#include "observe/temporary_directory.hpp"

/// Model folders of tiny networks with random weights.
namespace tiny {

/// One that is written once and not to be changed.
inline const std::filesystem::path& shared_folder() {
  static const TemporaryDirectory directory;
  static const std::filesystem::path path = [] {
    contraflow::sd3::write_random_folder(directory / "model", contraflow::sd3::tiny_folder());
    return directory / "model";
  }();
  return path;
}

/// A copy to be changed.
class OwnFolder {
 public:
  OwnFolder() {
    std::filesystem::copy(shared_folder(), path(), std::filesystem::copy_options::recursive);
  }
  std::filesystem::path path() const { return directory_ / "model"; }
  std::filesystem::path operator/(const std::string& name) const { return path() / name; }

  /// Changes entries of a JSON file; null takes one out.
  void change(const std::string& file, const nlohmann::json& patch) const {
    auto json = nlohmann::json::parse(read_all(path() / file));
    json.merge_patch(patch);
    write_all(path() / file, json.dump());
  }

 private:
  TemporaryDirectory directory_;
};

}  // namespace tiny
