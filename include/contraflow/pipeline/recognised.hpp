#pragma once

/// @file
/// What a path is that was given for a model folder, in words.

#include <filesystem>
#include <set>
#include <string>
#include <system_error>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/io/settings.hpp>

namespace contraflow::pipeline {

namespace detail {

inline std::string listed(const std::set<std::string>& names) {
  constexpr std::size_t most = 12;
  std::string list;
  std::size_t count = 0;
  for (const std::string& name : names) {
    if (count++ == most) return list + " and more";
    list += (list.empty() ? "" : ", ") + name;
  }
  return list;
}

inline std::string how_to_convert(const std::filesystem::path& file,
                                  const std::string& pipeline = "StableDiffusion3Pipeline") {
  return "; in Python, " + pipeline + ".from_single_file(\"" + file.filename().string() +
         "\").save_pretrained(\"folder\") of diffusers makes a model folder of it";
}

inline constexpr const char* adapter =
    "an adapter (LoRA) alone, which is read by read_lora, "
    "with the model that it is for beside it";

/// By the names of its tensors.
inline std::string recognised_tensors(const std::filesystem::path& file) {
  bool is_original = false, is_flux = false, is_whole = false, is_diffusers = false;
  for (const auto& [name, tensor] : read_safetensors(file).tensors) {
    if (name.find("lora_") != std::string::npos || name.find(".lora") != std::string::npos ||
        name.find("_lora") != std::string::npos) {
      return adapter;
    }
    is_original = is_original || name.find("joint_blocks.") != std::string::npos;
    is_flux = is_flux || name.find("double_blocks.") != std::string::npos;
    is_whole = is_whole || name.starts_with("model.diffusion_model.");
    is_diffusers = is_diffusers || name.starts_with("transformer_blocks.");
  }
  if (is_original) {
    return "a single-file checkpoint of Stable Diffusion 3 in its original layout" +
           how_to_convert(file);
  }
  if (is_flux) {
    return "a single-file checkpoint of FLUX.1 in its original layout" +
           how_to_convert(file, "FluxPipeline");
  }
  if (is_whole) return "a single-file checkpoint of another model than Stable Diffusion 3";
  if (is_diffusers) return "the weights of a transformer alone: give the folder of the whole model";
  return "a file of other tensors";
}

inline std::string recognised_file(const std::filesystem::path& file) {
  const std::string extension = file.extension().string();
  if (extension == ".safetensors") return recognised_tensors(file);
  if (std::set<std::string>{".ckpt", ".bin", ".pt", ".pth"}.contains(extension)) {
    return "a pickle of PyTorch, which is not read" + how_to_convert(file);
  }
  if (extension == ".gguf") return "a file of quantised weights (GGUF), which is not read";
  return "a file";
}

}  // namespace detail

/// What a path is that is no model folder in the layout of diffusers, in words for an error: a
/// checkpoint in one file and how it is converted, an adapter, a component alone, a folder above.
/// @param path anything
/// @throws Error naming the file, for a damaged one
inline std::string recognised(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code unreadable;
  if (!fs::exists(path, unreadable)) return "nothing";
  if (!fs::is_directory(path, unreadable)) return detail::recognised_file(path);
  const std::set<std::string> names = safetensors::names_in(path);
  if (names.contains("adapter_config.json") || names.contains("pytorch_lora_weights.safetensors")) {
    return detail::adapter;
  }
  if (names.contains("config.json")) {
    return "one component of a model, " +
           Settings(path / "config.json").text("_class_name", "of transformers") +
           ": give the folder that it is in";
  }
  if (names.contains("snapshots")) {
    return "a folder of the hub's cache: give the one below " + (path / "snapshots").string();
  }
  if (names.contains("model_index.json")) {
    return "a model of " + Settings(path / "model_index.json").text("_class_name", "no name") +
           " with " + detail::listed(names);
  }
  for (const std::string& name : names) {
    const std::string kind = detail::recognised_file(path / name);
    if (kind != "a file") return "a folder with " + name + ", " + kind;
  }
  return names.empty() ? "an empty folder" : "a folder with " + detail::listed(names);
}

}  // namespace contraflow::pipeline
