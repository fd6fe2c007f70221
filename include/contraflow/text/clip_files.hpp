#pragma once

/// @file
/// The files of a folder with CLIP's tokenizer.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/core/error.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/text/clip_vocabulary.hpp>

namespace contraflow {

/// What a CLIP tokenizer is told beside its vocabulary.
struct ClipTokenizerOptions {
  std::string pad = "<|endoftext|>";  ///< token of the vocabulary that fills the window
  std::int64_t length = 77;           ///< tokens of the window, at least 3
};

namespace clip_bpe {

// The files of a tokenizer's folder that say which tokens are special.
struct Configuration {
  ClipTokenizerOptions options = {};
  std::vector<std::tuple<std::string, std::int64_t, bool>> added = {};  // text, id, normalized
  bool begin_normalized = false, end_normalized = false;
};

// Entries of these files are strings or objects around them.
inline std::optional<std::string> content(const Settings& settings, const std::string& key) {
  if (!settings.has(key)) return std::nullopt;
  if (settings.json().at(key).is_object()) return settings.section(key).text("content");
  return settings.text(key);
}

inline bool normalized(const Settings& settings, const std::string& key) {
  if (!settings.has(key) || !settings.json().at(key).is_object()) return false;
  return settings.section(key).boolean("normalized", false);
}

inline Settings optional_settings(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return Settings(nlohmann::json::object(), path.string());
  return Settings(path);
}

// As transformers reads them: the list of added tokens decides where there is one; without it, the
// map of special tokens goes before the configuration.
inline Configuration read_configuration(const std::filesystem::path& folder) {
  const Settings config = optional_settings(folder / "tokenizer_config.json");
  const Settings map = optional_settings(folder / "special_tokens_map.json");
  Configuration result;
  const bool has_list = config.has("added_tokens_decoder");
  const Settings& first = has_list ? config : map;
  const Settings& second = has_list ? map : config;
  result.options.pad = content(first, "pad_token")
                           .value_or(content(second, "pad_token").value_or(result.options.pad));
  // "No limit" is written as 1e30.
  constexpr double longest = 1 << 16;
  if (config.number("model_max_length", 2 * longest) <= longest) {
    result.options.length = config.integer("model_max_length");
  }
  if (!has_list) {
    const auto of = [&](const char* key) {
      return map.has(key) ? normalized(map, key) : normalized(config, key);
    };
    result.begin_normalized = of("bos_token");
    result.end_normalized = of("eos_token");
    return result;
  }
  const Settings list = config.section("added_tokens_decoder");
  for (const auto& entry : list.json().items()) {
    const Settings token = list.section(entry.key());
    const bool digits = !entry.key().empty() && entry.key().size() < 10 &&
                        entry.key().find_first_not_of("0123456789") == std::string::npos;
    if (!digits) throw Error(list.name(), "ids of tokens as keys", "another key");
    result.added.emplace_back(token.text("content"), std::stoll(entry.key()),
                              token.boolean("normalized", false));
  }
  return result;
}

// All a tokenizer is made of, and what errors call its parts.
struct Parts {
  std::string vocabulary_name = "vocabulary", merges_name = "merges";
  Vocabulary vocabulary = {};
  std::vector<std::string> merges = {};
  Configuration configuration = {};
};

// Everything in tokenizer.json, the only file that newer releases of transformers write.
inline Parts read_single_file(const std::filesystem::path& path) {
  const Settings file(path);
  const Settings model = file.section("model");
  Parts parts{file.name(), file.name(), read_vocabulary(model.section("vocab"))};
  const auto list = [&](const Settings& settings, const char* key) -> const nlohmann::json& {
    const auto found = settings.json().find(key);
    if (found != settings.json().end() && found->is_array()) return *found;
    throw Error(settings.name(), std::string("a list as ") + key, "none");
  };
  for (const nlohmann::json& merge : list(model, "merges")) {
    const bool is_pair =
        merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    if (!is_pair && !merge.is_string()) {
      throw Error(model.name(), "merges of two tokens", "another entry");
    }
    parts.merges.push_back(is_pair ? merge[0].get<std::string>() + " " + merge[1].get<std::string>()
                                   : merge.get<std::string>());
  }
  parts.configuration = read_configuration(path.parent_path());
  parts.configuration.added.clear();
  for (const nlohmann::json& entry : list(file, "added_tokens")) {
    const Settings token(entry, file.name() + ": added_tokens");
    parts.configuration.added.emplace_back(token.text("content"),
                                           token.integer("id", 0, largest_id),
                                           token.boolean("normalized", false));
  }
  return parts;
}

inline Parts read_parts(const std::filesystem::path& folder) {
  const std::filesystem::path vocabulary = folder / "vocab.json", merges = folder / "merges.txt";
  const std::filesystem::path single = folder / "tokenizer.json";
  if (!std::filesystem::exists(vocabulary) && std::filesystem::exists(single)) {
    return read_single_file(single);
  }
  return {vocabulary.string(), merges.string(), read_vocabulary(Settings(vocabulary)),
          read_merges(merges), read_configuration(folder)};
}

}  // namespace clip_bpe

}  // namespace contraflow
