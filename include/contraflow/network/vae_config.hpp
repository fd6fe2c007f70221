#pragma once

/// @file
/// Shape of the autoencoder, from the config.json that diffusers writes beside its weights.

#include <contraflow/io/settings.hpp>
#include <contraflow/network/vae.hpp>

namespace contraflow {

/// Shape of the autoencoder.
/// @param settings `vae/config.json`
/// @throws Error naming file and key, for a value that is missing or out of range
inline VaeOptions vae_options(const Settings& settings) {
  settings.expects_text("act_fn", "silu");
  VaeOptions options;
  options.in_channels = settings.size("in_channels");
  options.out_channels = settings.size("out_channels");
  options.latent_channels = settings.size("latent_channels");
  options.layers_per_block = settings.integer("layers_per_block", 1, 100);
  options.block_out_channels = settings.integers("block_out_channels");
  options.norm_num_groups = settings.size("norm_num_groups");
  options.use_quant_conv = settings.boolean("use_quant_conv", true);
  options.use_post_quant_conv = settings.boolean("use_post_quant_conv", true);
  options.mid_block_add_attention = settings.boolean("mid_block_add_attention", true);
  options.scaling_factor = settings.number("scaling_factor");
  options.shift_factor = settings.number("shift_factor", 0);
  return options;
}

}  // namespace contraflow
