#pragma once

/// @file
/// Adapters on disk, in the formats that diffusers and peft read.

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include <contraflow/io/json.hpp>
#include <contraflow/io/safetensors.hpp>
#include <contraflow/network/lora.hpp>

namespace contraflow {

namespace detail {

inline constexpr const char* diffusers_lora_file = "pytorch_lora_weights.safetensors";
inline constexpr const char* peft_lora_file = "adapter_model.safetensors";
inline constexpr const char* peft_config_file = "adapter_config.json";

/// Without a prefix that every name has to have.
inline std::map<std::string, Tensor> without_prefix(const std::map<std::string, Tensor>& tensors,
                                                    const std::string& prefix,
                                                    const std::string& source) {
  std::map<std::string, Tensor> result;
  for (const auto& [name, tensor] : tensors) {
    if (!name.starts_with(prefix)) throw Error(source, "names that begin with " + prefix, name);
    result.emplace(name.substr(prefix.size()), tensor);
  }
  return result;
}

inline std::int64_t rank_of(const std::map<std::string, Tensor>& tensors,
                            const std::string& source) {
  for (const auto& [name, tensor] : tensors) {
    if (name.ends_with(".lora_A.weight") && tensor.dim() == 2 && tensor.size(0) > 0) {
      return tensor.size(0);
    }
  }
  throw Error(source, "an adapter, with tensors *.lora_A.weight", "none");
}

/// alpha of a peft configuration, if it has one; refuses the kinds of adapter that differ from a
/// plain one.
inline std::optional<double> alpha_of(const nlohmann::json& config, const std::string& prefix,
                                      const std::string& source) {
  if (!config.is_object()) throw Error(source, "a JSON object", config.type_name());
  for (const char* kind : {"use_dora", "use_rslora", "lora_bias", "fan_in_fan_out"}) {
    const auto found = config.find(prefix + kind);
    if (found == config.end() || found->is_null() || *found == false) continue;
    throw Error(source, std::string(kind) + " false", found->dump());
  }
  for (const char* pattern : {"alpha_pattern", "rank_pattern"}) {
    const auto found = config.find(prefix + pattern);
    if (found == config.end() || found->is_null() || found->empty()) continue;
    throw Error(source, std::string(pattern) + " empty", found->dump());
  }
  const auto found = config.find(prefix + "lora_alpha");
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (!found->is_number()) throw Error(source, "a number as lora_alpha", found->dump());
  return found->get<double>();
}

inline LoraWeights read_peft_lora(const std::filesystem::path& folder) {
  const std::string source = (folder / peft_lora_file).string();
  const std::string config = (folder / peft_config_file).string();
  LoraWeights weights{
      without_prefix(read_safetensors(source).tensors, "base_model.model.", source)};
  const auto alpha = alpha_of(read_json(config), "", config);
  weights.alpha = alpha.value_or(double(rank_of(weights.tensors, source)));
  return weights;
}

inline LoraWeights read_diffusers_lora(const std::filesystem::path& path) {
  const SafetensorsFile file = read_safetensors(path);
  LoraWeights weights{without_prefix(file.tensors, "transformer.", path.string())};
  std::optional<double> alpha;
  if (const auto found = file.metadata.find("lora_adapter_metadata");
      found != file.metadata.end()) {
    alpha = alpha_of(parse_json(path.string(), found->second), "transformer.", path.string());
  }
  weights.alpha = alpha.value_or(double(rank_of(weights.tensors, path.string())));
  return weights;
}

/// The adapted modules by their whole names: a shorter one, which peft matches as a suffix, might
/// match others too.
inline std::set<std::string> module_names(const std::map<std::string, Tensor>& tensors) {
  std::set<std::string> modules;
  for (const auto& [name, tensor] : tensors) modules.insert(name.substr(0, name.find(".lora_")));
  return modules;
}

}  // namespace detail

/// Reads an adapter: a peft folder (`adapter_model.safetensors` and `adapter_config.json`), a
/// diffusers folder (`pytorch_lora_weights.safetensors`), or one file in the layout of the latter.
///
/// alpha comes from the configuration beside or inside the file; without one it is the rank, as
/// diffusers has it.
/// @throws Error for a file that cannot be read, of another layout or another kind of adapter
inline LoraWeights read_lora(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return detail::read_diffusers_lora(path);
  if (std::filesystem::exists(path / detail::peft_config_file)) return detail::read_peft_lora(path);
  if (std::filesystem::exists(path / detail::diffusers_lora_file)) {
    return detail::read_diffusers_lora(path / detail::diffusers_lora_file);
  }
  throw Error(path.string(),
              std::string(detail::peft_config_file) + " or " + detail::diffusers_lora_file,
              "neither");
}

/// Writes an adapter so that both old and new releases of diffusers load it with the right scale:
/// `folder/pytorch_lora_weights.safetensors`, each B multiplied by alpha / r, no metadata.
/// @throws Error naming the file that cannot be written
inline void write_diffusers_lora(const std::filesystem::path& folder, const LoraWeights& weights) {
  std::filesystem::create_directories(folder);
  const double scale = weights.alpha / double(detail::rank_of(weights.tensors, folder.string()));
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, tensor] : weights.tensors) {
    const bool is_up = name.ends_with(".lora_B.weight");
    tensors.emplace("transformer." + name, is_up ? tensor.detach() * scale : tensor.detach());
  }
  write_safetensors(folder / detail::diffusers_lora_file, tensors, {{"format", "pt"}});
}

/// Writes an adapter as a peft folder: `adapter_model.safetensors` and `adapter_config.json`, the
/// latter with the keys that every release of peft knows.
/// @throws Error naming the file that cannot be written
inline void write_peft_lora(const std::filesystem::path& folder, const LoraWeights& weights) {
  std::filesystem::create_directories(folder);
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, tensor] : weights.tensors) {
    tensors.emplace("base_model.model." + name, tensor.detach());
  }
  write_safetensors(folder / detail::peft_lora_file, tensors, {{"format", "pt"}});
  const nlohmann::json config = {
      {"peft_type", "LORA"},
      {"r", detail::rank_of(weights.tensors, folder.string())},
      {"lora_alpha", weights.alpha},
      {"lora_dropout", 0.0},
      {"bias", "none"},
      {"fan_in_fan_out", false},
      {"inference_mode", true},
      {"init_lora_weights", "gaussian"},
      {"target_modules", detail::module_names(weights.tensors)},
      {"base_model_name_or_path", nullptr},
      {"task_type", nullptr},
  };
  write_json(folder / detail::peft_config_file, config);
}

}  // namespace contraflow
