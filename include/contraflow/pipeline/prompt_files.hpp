#pragma once

/// @file
/// Encoded prompts on disk.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/network/text_condition.hpp>

namespace contraflow::pipeline {

/// Writes encoded prompts, so that they are encoded once.
/// @param path safetensors file to write or replace
/// @param condition one row a caption
/// @param captions what was encoded
/// @param source what it was encoded with; has to be the same when it is read
/// @throws Error if the file cannot be written
inline void write_prompts(const std::filesystem::path& path, const TextCondition& condition,
                          const std::vector<std::string>& captions, const std::string& source) {
  write_safetensors(path, {{"sequence", condition.sequence}, {"pooled", condition.pooled}},
                    {{"captions", nlohmann::json(captions).dump()}, {"source", source}});
}

/// Reads encoded prompts, if they are there and of the same captions and source.
/// @param path a file that write_prompts() made
/// @param captions expected
/// @param source expected
/// @return the condition, mapped from the file; nothing where it has to be encoded anew
/// @throws Error for a file that is damaged
inline std::optional<TextCondition> read_prompts(const std::filesystem::path& path,
                                                 const std::vector<std::string>& captions,
                                                 const std::string& source) {
  std::error_code unreadable;
  if (!std::filesystem::exists(path, unreadable)) return std::nullopt;
  const SafetensorsFile file = read_safetensors(path);
  const auto holds = [&](const char* key, const std::string& value) {
    const auto found = file.metadata.find(key);
    return found != file.metadata.end() && found->second == value;
  };
  if (!holds("source", source) || !holds("captions", nlohmann::json(captions).dump())) {
    return std::nullopt;
  }
  const auto tensor = [&](const char* name) {
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end()) throw Error(path.string(), std::string(name), "none");
    return found->second;
  };
  return TextCondition{tensor("sequence"), tensor("pooled")};
}

}  // namespace contraflow::pipeline
