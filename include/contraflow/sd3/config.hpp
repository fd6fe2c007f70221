#pragma once

/// @file
/// Shapes of the networks of Stable Diffusion 3.5, from the config.json files of a model folder.

#include <string>

#include <contraflow/io/settings.hpp>
#include <contraflow/model/mmdit.hpp>
#include <contraflow/network/clip.hpp>
#include <contraflow/network/t5.hpp>
#include <contraflow/sd3/vae.hpp>
#include <contraflow/time/grid.hpp>

namespace contraflow::sd3 {

namespace detail {

/// Larger numbers are a damaged file, not a network.
inline constexpr std::int64_t largest = 1'000'000;

inline std::int64_t size(const Settings& settings, const char* key) {
  return settings.integer(key, 1, largest);
}
inline std::int64_t size(const Settings& settings, const char* key, std::int64_t fallback) {
  return settings.integer(key, 1, largest, fallback);
}

/// Throws Error unless a setting that only has one value here has it, or is not there.
inline void expects_text(const Settings& settings, const char* key, const char* expected) {
  const std::string got = settings.text(key, expected);
  if (got != expected) throw Error(settings.name(), std::string(key) + " " + expected, got);
}

inline Activation activation(const Settings& settings) {
  const std::string name = settings.text("hidden_act", "quick_gelu");
  if (name == "quick_gelu") return Activation::quick_gelu;
  if (name == "gelu") return Activation::gelu;
  throw Error(settings.name(), "hidden_act quick_gelu or gelu", name);
}

}  // namespace detail

/// Shape of the transformer.
/// @param settings `transformer/config.json`
/// @throws Error naming file and key, for a value that is missing or out of range
inline MmditOptions mmdit_options(const Settings& settings) {
  using detail::size;
  MmditOptions options;
  options.sample_size = size(settings, "sample_size");
  options.patch_size = size(settings, "patch_size");
  options.in_channels = size(settings, "in_channels");
  options.out_channels = size(settings, "out_channels", options.in_channels);
  options.num_layers = settings.integer("num_layers", 1, 1000);
  options.num_attention_heads = size(settings, "num_attention_heads");
  options.attention_head_dim = size(settings, "attention_head_dim");
  options.joint_attention_dim = size(settings, "joint_attention_dim");
  options.caption_projection_dim = size(settings, "caption_projection_dim");
  options.pooled_projection_dim = size(settings, "pooled_projection_dim");
  options.pos_embed_max_size = settings.integer("pos_embed_max_size", 1, 4096);
  options.dual_attention_layers = settings.integers("dual_attention_layers", {});
  options.qk_norm = settings.has("qk_norm");
  detail::expects_text(settings, "qk_norm", "rms_norm");
  return options;
}

/// Shape of `text_encoder` or `text_encoder_2`.
/// @param settings `text_encoder/config.json`
/// @throws Error naming file and key, for a value that is missing or out of range
inline ClipTextOptions clip_text_options(const Settings& settings) {
  using detail::size;
  ClipTextOptions options;
  options.vocab_size = settings.integer("vocab_size", 1, 10'000'000);
  options.max_position_embeddings = size(settings, "max_position_embeddings", 77);
  options.hidden_size = size(settings, "hidden_size");
  options.intermediate_size = size(settings, "intermediate_size");
  options.projection_dim = size(settings, "projection_dim");
  options.num_hidden_layers = settings.integer("num_hidden_layers", 1, 1000);
  options.num_attention_heads = size(settings, "num_attention_heads");
  options.hidden_act = detail::activation(settings);
  options.layer_norm_eps = settings.number("layer_norm_eps", options.layer_norm_eps);
  options.eos_token_id = settings.integer("eos_token_id", options.eos_token_id);
  return options;
}

/// Shape of `text_encoder_3`.
/// @param settings `text_encoder_3/config.json`
/// @throws Error naming file and key, for a value that is missing or out of range
inline T5Options t5_options(const Settings& settings) {
  using detail::size;
  T5Options options;
  options.vocab_size = settings.integer("vocab_size", 1, 10'000'000);
  options.d_model = size(settings, "d_model");
  options.d_kv = size(settings, "d_kv");
  options.d_ff = size(settings, "d_ff");
  options.num_layers = settings.integer("num_layers", 1, 1000);
  options.num_heads = size(settings, "num_heads");
  options.relative_attention_num_buckets = size(settings, "relative_attention_num_buckets", 32);
  options.relative_attention_max_distance = size(settings, "relative_attention_max_distance", 128);
  options.layer_norm_epsilon = settings.number("layer_norm_epsilon", options.layer_norm_epsilon);
  detail::expects_text(settings, "feed_forward_proj", "gated-gelu");
  return options;
}

/// Shape of the autoencoder.
/// @param settings `vae/config.json`
/// @throws Error naming file and key, for a value that is missing or out of range
inline VaeOptions vae_options(const Settings& settings) {
  using detail::size;
  detail::expects_text(settings, "act_fn", "silu");
  VaeOptions options;
  options.in_channels = size(settings, "in_channels");
  options.out_channels = size(settings, "out_channels");
  options.latent_channels = size(settings, "latent_channels");
  options.layers_per_block = settings.integer("layers_per_block", 1, 100);
  options.block_out_channels = settings.integers("block_out_channels");
  options.norm_num_groups = size(settings, "norm_num_groups");
  options.use_quant_conv = settings.boolean("use_quant_conv", true);
  options.use_post_quant_conv = settings.boolean("use_post_quant_conv", true);
  options.mid_block_add_attention = settings.boolean("mid_block_add_attention", true);
  options.scaling_factor = settings.number("scaling_factor");
  options.shift_factor = settings.number("shift_factor", 0);
  return options;
}

/// Settings of the sampling grid.
/// @param settings `scheduler/scheduler_config.json`
/// @throws Error for dynamic shifting, which Stable Diffusion 3.5 does not use, or a value that is
///   out of range
inline Sd3GridOptions grid_options(const Settings& settings) {
  if (settings.boolean("use_dynamic_shifting", false)) {
    throw Error(settings.name(), "use_dynamic_shifting false", "true");
  }
  return {.shift = settings.number("shift", 3),
          .num_train_timesteps =
              int(settings.integer("num_train_timesteps", 2, detail::largest, 1000))};
}

}  // namespace contraflow::sd3
