#pragma once

/// @file
/// Adapters on disk, in the formats that diffusers and peft read.

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/io/file.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/io/safetensors.hpp>
#include <contraflow/network/lora.hpp>
#include <contraflow/pipeline/lora_layouts.hpp>

namespace contraflow {

namespace detail {

inline constexpr const char* diffusers_lora_file = "pytorch_lora_weights.safetensors";
inline constexpr const char* peft_lora_file = "adapter_model.safetensors";
inline constexpr const char* peft_config_file = "adapter_config.json";

inline constexpr const char* down_suffix = LoraWeights::down_suffix;
inline constexpr const char* up_suffix = LoraWeights::up_suffix;

/// The rank of each adapted module.
inline std::map<std::string, std::int64_t> ranks_of(const std::map<std::string, Tensor>& tensors,
                                                    const std::string& source) {
  std::map<std::string, std::int64_t> ranks;
  for (const auto& [name, tensor] : tensors) {
    if (!name.ends_with(down_suffix) || tensor.dim() != 2 || tensor.size(0) == 0) continue;
    ranks.emplace(name.substr(0, name.size() - std::string(down_suffix).size()), tensor.size(0));
  }
  if (ranks.empty()) throw Error(source, "an adapter, with tensors *.lora_A.weight", "none");
  return ranks;
}

/// A pattern of layers in a configuration of peft: a name, or the end of one that begins at a dot,
/// or a regular expression of them.
///
/// The file is not trusted: names are compared without the library's regular expressions, and those
/// that are more have a bounded size and are matched in polynomial time.
class LayerPattern {
 public:
  /// @throws Error naming the source, for one that is no regular expression, longer than 500
  /// bytes, or with counts, look-ahead or references in it
  LayerPattern(const std::string& pattern, const std::string& source) : pattern_(pattern) {
    if (is_name()) return;
    const auto has = [&](const char* part) { return pattern.find(part) != std::string::npos; };
    if (pattern.size() > 500 || has("{") || has("(?=") || has("(?!")) {
      throw Error(source, "short regular expressions in alpha_pattern, without {, (?= and (?!",
                  excerpt(pattern));
    }
    try {
      expression_.emplace("(.*\\.)?(" + pattern + ")", syntax);
    } catch (const std::regex_error&) {
      throw Error(source, "regular expressions in alpha_pattern", excerpt(pattern));
    }
  }

  bool matches(const std::string& module) const {
    if (expression_) return std::regex_match(module, *expression_);
    if (module.size() < pattern_.size()) return false;
    const std::size_t begin = module.size() - pattern_.size();
    const bool is_whole = begin == 0 || module[begin - 1] == '.';
    return is_whole && std::equal(pattern_.begin(), pattern_.end(), module.begin() + begin,
                                  [](char a, char b) { return a == b || a == '.'; });
  }

 private:
#ifdef __GLIBCXX__
  // By breadth: its search by depth takes time that is exponential in the length of a name.
  static constexpr auto syntax = std::regex::ECMAScript | std::regex_constants::__polynomial;
#else
  static constexpr auto syntax = std::regex::ECMAScript;
#endif

  bool is_name() const {
    return std::all_of(pattern_.begin(), pattern_.end(), [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '_' || c == '.' || c == '-';
    });
  }

  std::string pattern_;
  std::optional<std::regex> expression_;
};

/// What a configuration of peft says of the scale of layers.
struct PeftScales {
  std::optional<double> alpha = {};  ///< of all; else each has its rank
  bool is_rank_stabilised = false;   ///< the scale is alpha / sqrt(r)
  std::vector<std::pair<LayerPattern, double>> patterns = {};

  /// alpha of a module, such that its scale is alpha / r.
  double alpha_of(const std::string& module, std::int64_t rank) const {
    double own = alpha.value_or(double(rank));
    for (const auto& [pattern, value] : patterns) {
      if (pattern.matches(module)) {
        own = value;
        break;
      }
    }
    return is_rank_stabilised ? own * std::sqrt(double(rank)) : own;
  }
};

/// Refuses kinds of adapter that are more than a product of two matrices, or whose base is not the
/// published one.
inline void expects_plain_lora(const nlohmann::ordered_json& config, const std::string& prefix,
                               const std::string& source) {
  const auto type = config.find(prefix + "peft_type");
  if (type != config.end() && !type->is_null() && *type != "LORA") {
    throw Error(source, "peft_type LORA", type->dump());
  }
  for (const char* kind : {"use_dora", "lora_bias", "fan_in_fan_out"}) {
    const auto found = config.find(prefix + kind);
    if (found == config.end() || found->is_null() || *found == false) continue;
    throw Error(source, std::string(kind) + " false", found->dump());
  }
  const auto initial = config.find(prefix + "init_lora_weights");
  if (initial == config.end() || !initial->is_string()) return;
  const std::string kind = initial->get<std::string>();
  for (const char* changes_base : {"pissa", "olora", "corda", "loftq", "lora_ga"}) {
    if (kind.starts_with(changes_base)) {
      throw Error(source, "an adapter of an unchanged base", "init_lora_weights " + kind);
    }
  }
}

/// The scales of a peft configuration, where the first pattern that matches a layer counts.
inline PeftScales scales_of(const nlohmann::ordered_json& config, const std::string& prefix,
                            const std::string& source) {
  if (!config.is_object()) throw Error(source, "a JSON object", config.type_name());
  expects_plain_lora(config, prefix, source);
  PeftScales scales;
  const auto number = [&](const nlohmann::ordered_json& value, const std::string& name) {
    if (!value.is_number()) throw Error(source, "a number as " + name, value.dump());
    return value.get<double>();
  };
  const auto given = [&](const char* name) {
    const auto found = config.find(prefix + name);
    return found == config.end() || found->is_null() ? nullptr : &*found;
  };
  if (const auto* alpha = given("lora_alpha")) scales.alpha = number(*alpha, "lora_alpha");
  if (const auto* rslora = given("use_rslora")) scales.is_rank_stabilised = *rslora == true;
  if (const auto* patterns = given("alpha_pattern")) {
    if (!patterns->is_object()) throw Error(source, "an object as alpha_pattern", patterns->dump());
    for (const auto& [pattern, value] : patterns->items()) {
      scales.patterns.emplace_back(LayerPattern(pattern, source),
                                   number(value, "alpha_pattern of " + pattern));
    }
  }
  return scales;
}

inline void expects_finite(const Tensor& tensor, const std::string& name,
                           const std::string& source) {
  // LibTorch cannot tell for its types of 8 bits.
  if (wide(tensor).isfinite().all().item<bool>()) return;
  throw Error(source, "finite numbers", "NaN or infinity in " + name);
}

/// An adapter of these tensors, each layer at its own scale: what the file says by
/// `<module>.alpha`, else what the configuration says, else its rank.
inline LoraWeights scaled(std::map<std::string, Tensor> tensors, PeftScales scales,
                          const std::string& source) {
  std::map<std::string, double> in_file;
  for (auto next = tensors.begin(); next != tensors.end();) {
    const auto& [name, tensor] = *next;
    if (!name.ends_with(".alpha") || tensor.numel() != 1) {
      ++next;
      continue;
    }
    in_file.emplace(name.substr(0, name.size() - std::string(".alpha").size()),
                    tensor.to(at::kDouble).item<double>());
    next = tensors.erase(next);
  }
  for (const auto& [name, tensor] : tensors) expects_finite(tensor, name, source);
  const auto ranks = ranks_of(tensors, source);
  LoraWeights weights{std::move(tensors), 0, {}};
  for (const auto& [module, rank] : ranks) {
    const auto own = in_file.find(module);
    const double alpha = own == in_file.end() ? scales.alpha_of(module, rank) : own->second;
    if (!std::isfinite(alpha)) {
      throw Error(source, "finite numbers", "NaN or infinity as alpha of " + module);
    }
    weights.alphas[module] = alpha;
  }
  for (const auto& [module, alpha] : in_file) {
    if (!ranks.contains(module)) throw Error(source, "a layer for each alpha", module + ".alpha");
  }
  // What they share is alpha, what is left are the exceptions.
  weights.alpha = weights.alphas.begin()->second;
  std::erase_if(weights.alphas, [&](const auto& own) { return own.second == weights.alpha; });
  return weights;
}

/// A configuration with its keys in the order of the file, which has been checked as any.
inline nlohmann::ordered_json in_order(const std::string& source, std::string_view text) {
  parse_json(source, text);
  return nlohmann::ordered_json::parse(text);
}

inline LoraWeights read_peft_lora(const std::filesystem::path& folder, EncoderParts encoders) {
  const std::string source = (folder / peft_lora_file).string();
  const std::string config = (folder / peft_config_file).string();
  const auto tensors = in_known_names(read_safetensors(source).tensors, encoders, source);
  const MappedFile file(config);
  const PeftScales scales = scales_of(in_order(config, {file.bytes(), file.size()}), "", config);
  return in_diffusers_layout(scaled(tensors, scales, source), source);
}

inline LoraWeights read_lora_file(const std::filesystem::path& path, EncoderParts encoders) {
  const std::string source = path.string();
  const SafetensorsFile file = read_safetensors(path);
  PeftScales scales;
  if (const auto found = file.metadata.find("lora_adapter_metadata");
      found != file.metadata.end()) {
    scales = scales_of(in_order(source, found->second), "transformer.", source);
  }
  return in_diffusers_layout(scaled(in_known_names(file.tensors, encoders, source), scales, source),
                             source);
}

/// The modules whose values differ from a common one, as a pattern of peft: their whole names, with
/// those that a name would match as their suffix, the longest first, since the first that matches
/// counts.
template <class T>
nlohmann::ordered_json pattern_of(const std::map<std::string, T>& values, T common) {
  std::vector<std::string> names;
  for (const auto& [module, value] : values) {
    if (value != common) names.push_back(module);
  }
  const auto is_within = [](const std::string& module) {
    return [&module](const std::string& name) { return module.ends_with("." + name); };
  };
  const std::vector<std::string> exceptions = names;
  for (const auto& [module, value] : values) {
    if (value == common && std::any_of(exceptions.begin(), exceptions.end(), is_within(module))) {
      names.push_back(module);
    }
  }
  std::stable_sort(names.begin(), names.end(),
                   [](const auto& a, const auto& b) { return a.size() > b.size(); });
  nlohmann::ordered_json pattern = nlohmann::ordered_json::object();
  for (const std::string& name : names) pattern[name] = values.at(name);
  return pattern;
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
/// diffusers folder (`pytorch_lora_weights.safetensors`), or one file.
///
/// Files of other tools are converted where their layers are known as those of Stable Diffusion 3
/// or FLUX.1: kohya's names (`lora_unet_...lora_down.weight`), XLabs' (`...processor.qkv_lora`) and
/// the original layouts (`joint_blocks...`, `double_blocks...`), whose joined queries, keys and
/// values become three layers.
///
/// Each layer has its own scale: alpha comes from the configuration beside or inside the file, with
/// its patterns and rsLoRA, or from `<layer>.alpha` in the file; without any it is the layer's
/// rank.
/// @param path of a folder or file
/// @param encoders what becomes of parts that belong to text encoders
/// @return in the layout of diffusers
/// @throws Error for a file that cannot be read, of layers that are not known (it names one), with
///   parts of text encoders unless they are left out, with numbers that are not finite, or of
///   another kind of adapter: DoRA, LoHa, LoKr, those whose base is changed, such as PiSSA
inline LoraWeights read_lora(const std::filesystem::path& path,
                             EncoderParts encoders = EncoderParts::refuse) {
  const bool is_folder = std::filesystem::is_directory(path);
  // A file of peft says nothing of its scale: that stands beside it.
  const bool is_peft_file = !is_folder && path.filename() == detail::peft_lora_file &&
                            std::filesystem::exists(path.parent_path() / detail::peft_config_file);
  if (is_peft_file) return detail::read_peft_lora(path.parent_path(), encoders);
  if (!is_folder) return detail::read_lora_file(path, encoders);
  if (std::filesystem::exists(path / detail::peft_config_file)) {
    return detail::read_peft_lora(path, encoders);
  }
  if (std::filesystem::exists(path / detail::diffusers_lora_file)) {
    return detail::read_lora_file(path / detail::diffusers_lora_file, encoders);
  }
  throw Error(path.string(),
              std::string(detail::peft_config_file) + " or " + detail::diffusers_lora_file,
              "neither");
}

/// Writes an adapter so that both old and new releases of diffusers load it with the right scale:
/// `folder/pytorch_lora_weights.safetensors`, each B multiplied by its alpha / r, no metadata.
/// Where ranks differ the smaller ones are filled up with zeros, since releases differ in what
/// scale they give them.
/// @throws WriteError naming what cannot be written
inline void write_diffusers_lora(const std::filesystem::path& folder, const LoraWeights& weights) {
  make_folder(folder);
  const auto ranks = detail::ranks_of(weights.tensors, folder.string());
  std::int64_t most = 0;
  for (const auto& [module, rank] : ranks) most = std::max(most, rank);
  std::map<std::string, Tensor> tensors;
  for (const auto& [module, rank] : ranks) {
    const Tensor down = weights.tensors.at(module + detail::down_suffix).detach();
    const Tensor up = weights.tensors.at(module + detail::up_suffix).detach() *
                      (weights.alpha_of(module) / double(rank));
    const std::int64_t missing = most - rank;
    const std::string name = "transformer." + module;
    tensors.emplace(name + detail::down_suffix,
                    missing > 0 ? at::constant_pad_nd(down, {0, 0, 0, missing}) : down);
    tensors.emplace(name + detail::up_suffix,
                    missing > 0 ? at::constant_pad_nd(up, {0, missing}) : up);
  }
  write_safetensors(folder / detail::diffusers_lora_file, tensors, {{"format", "pt"}});
}

/// Writes an adapter as a peft folder: `adapter_model.safetensors` and `adapter_config.json`, the
/// latter with the keys that every release of peft knows, and with patterns of rank and alpha where
/// layers differ in them.
/// @throws WriteError naming what cannot be written
inline void write_peft_lora(const std::filesystem::path& folder, const LoraWeights& weights) {
  make_folder(folder);
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, tensor] : weights.tensors) {
    tensors.emplace("base_model.model." + name, tensor.detach());
  }
  write_safetensors(folder / detail::peft_lora_file, tensors, {{"format", "pt"}});
  const auto ranks = detail::ranks_of(weights.tensors, folder.string());
  const std::int64_t rank = ranks.begin()->second;
  std::map<std::string, double> alphas;
  for (const auto& [module, own] : ranks) alphas.emplace(module, weights.alpha_of(module));
  nlohmann::ordered_json config = {
      {"peft_type", "LORA"},
      {"r", rank},
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
  const auto add = [&](const char* key, nlohmann::ordered_json pattern) {
    if (!pattern.empty()) config[key] = std::move(pattern);
  };
  add("rank_pattern", detail::pattern_of(ranks, rank));
  add("alpha_pattern", detail::pattern_of(alphas, weights.alpha));
  write_file(folder / detail::peft_config_file, config.dump(2) + "\n");
}

}  // namespace contraflow
