#pragma once

/// @file
/// Shapes of CLIP, from the config.json that transformers writes beside its weights.
///
/// Entries that are left out have the defaults of transformers, those of CLIP ViT-B/32.

#include <cstdint>
#include <string>
#include <vector>

#include <contraflow/io/settings.hpp>
#include <contraflow/network/clip.hpp>

namespace contraflow {

namespace detail {

inline Activation clip_activation(const Settings& settings) {
  const std::string name = settings.text("hidden_act", "quick_gelu");
  if (name == "quick_gelu") return Activation::quick_gelu;
  if (name == "gelu") return Activation::gelu;
  throw Error(settings.name() + ": \"hidden_act\"", "quick_gelu or gelu", name);
}

/// transformers names the tower without a projection CLIPTextModel.
inline bool has_projection(const Settings& text) {
  return text.texts("architectures", {}) != std::vector<std::string>{"CLIPTextModel"};
}

inline Settings section_or_none(const Settings& settings, const std::string& key) {
  if (settings.has(key)) return settings.section(key);
  return Settings(nlohmann::json::object(), settings.name() + ": " + key);
}

}  // namespace detail

/// Shape of a text tower.
/// @param text settings of it alone, such as `text_encoder/config.json` of a model folder
/// @throws Error naming the entry that is out of range or of another type
inline ClipTextOptions clip_text_options(const Settings& text) {
  return {.vocab_size = text.integer("vocab_size", 1, 10'000'000, 49408),
          .max_position_embeddings = text.size("max_position_embeddings", 77),
          .hidden_size = text.size("hidden_size", 512),
          .intermediate_size = text.size("intermediate_size", 2048),
          .projection_dim = text.size("projection_dim", 512),
          .num_hidden_layers = text.integer("num_hidden_layers", 1, 1000, 12),
          .num_attention_heads = text.size("num_attention_heads", 8),
          .hidden_act = detail::clip_activation(text),
          .layer_norm_eps = text.number("layer_norm_eps", 1e-5),
          .eos_token_id = text.integer("eos_token_id", 0, 10'000'000, 49407),
          .has_projection = detail::has_projection(text)};
}

/// Shape of a vision tower.
/// @param vision settings of it alone
/// @throws Error naming the entry that is out of range or of another type
inline ClipVisionOptions clip_vision_options(const Settings& vision) {
  return {.num_channels = vision.integer("num_channels", 3, 3, 3),
          .image_size = vision.integer("image_size", 1, 1 << 14, 224),
          .patch_size = vision.integer("patch_size", 1, 1 << 14, 32),
          .hidden_size = vision.size("hidden_size", 768),
          .intermediate_size = vision.size("intermediate_size", 3072),
          .projection_dim = vision.size("projection_dim", 512),
          .num_hidden_layers = vision.integer("num_hidden_layers", 1, 1000, 12),
          .num_attention_heads = vision.size("num_attention_heads", 12),
          .hidden_act = detail::clip_activation(vision),
          .layer_norm_eps = vision.number("layer_norm_eps", 1e-5)};
}

/// Shape of both towers.
/// @param config the whole file, whose sections `text_config` and `vision_config` may be missing
/// @throws Error naming the entry that is out of range or of another type
inline ClipOptions clip_options(const Settings& config) {
  ClipOptions options{
      .text = clip_text_options(detail::section_or_none(config, "text_config")),
      .vision = clip_vision_options(detail::section_or_none(config, "vision_config"))};
  // Where both are described together, the width of the shared space stands above them.
  options.text.projection_dim = options.vision.projection_dim = config.size("projection_dim", 512);
  return options;
}

}  // namespace contraflow
