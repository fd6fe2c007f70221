#pragma once

/// @file
/// Shapes of the networks that text-to-image models share, from the config.json files of a model
/// folder; that of CLIP is in network/clip_config.hpp.

#include <cstdint>
#include <string>

#include <contraflow/io/settings.hpp>
#include <contraflow/network/t5.hpp>
#include <contraflow/network/vae.hpp>

namespace contraflow::pipeline {

/// Larger numbers are a damaged file, not a network.
inline constexpr std::int64_t largest = 1'000'000;

/// A size of a network.
inline std::int64_t size(const Settings& settings, const char* key) {
  return settings.integer(key, 1, largest);
}
/// The same, or @p fallback where there is none.
inline std::int64_t size(const Settings& settings, const char* key, std::int64_t fallback) {
  return settings.integer(key, 1, largest, fallback);
}

/// Throws Error unless a setting that only has one value here has it, or is not there.
inline void expects_text(const Settings& settings, const char* key, const char* expected) {
  const std::string got = settings.text(key, expected);
  if (got != expected) throw Error(settings.name(), std::string(key) + " " + expected, got);
}

/// Shape of the encoder of T5.
/// @param settings its `config.json`
/// @throws Error naming file and key, for a value that is missing or out of range
inline T5Options t5_options(const Settings& settings) {
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
  expects_text(settings, "feed_forward_proj", "gated-gelu");
  return options;
}

/// Shape of the autoencoder.
/// @param settings `vae/config.json`
/// @throws Error naming file and key, for a value that is missing or out of range
inline VaeOptions vae_options(const Settings& settings) {
  expects_text(settings, "act_fn", "silu");
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

}  // namespace contraflow::pipeline
