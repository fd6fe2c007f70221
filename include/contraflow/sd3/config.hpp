#pragma once

/// @file
/// Shape of the transformer of Stable Diffusion 3 or 3.5 and its grid, from the config.json files
/// of a model folder.

#include <contraflow/io/settings.hpp>
#include <contraflow/network/mmdit_network.hpp>
#include <contraflow/time/grid.hpp>

namespace contraflow::sd3 {

/// Shape of the transformer. Where the file says nothing of `qk_norm` and `dual_attention_layers`,
/// which is older than they are for Stable Diffusion 3 Medium, there is neither.
/// @param settings `transformer/config.json`
/// @throws Error naming file and key, for a value that is missing or out of range
inline MmditOptions mmdit_options(const Settings& settings) {
  MmditOptions options;
  options.sample_size = settings.size("sample_size");
  options.patch_size = settings.size("patch_size");
  options.in_channels = settings.size("in_channels");
  options.out_channels = settings.size("out_channels", options.in_channels);
  options.num_layers = settings.integer("num_layers", 1, 1000);
  options.num_attention_heads = settings.size("num_attention_heads");
  options.attention_head_dim = settings.size("attention_head_dim");
  options.joint_attention_dim = settings.size("joint_attention_dim");
  options.caption_projection_dim = settings.size("caption_projection_dim");
  options.pooled_projection_dim = settings.size("pooled_projection_dim");
  options.pos_embed_max_size = settings.integer("pos_embed_max_size", 1, 4096);
  options.dual_attention_layers = settings.integers("dual_attention_layers", {});
  options.qk_norm = settings.has("qk_norm");
  settings.expects_text("qk_norm", "rms_norm");
  return options;
}

/// Settings of the sampling grid.
/// @param settings `scheduler/scheduler_config.json`
/// @throws Error for dynamic shifting, which Stable Diffusion 3 does not use, or a value that is
///   out of range
inline Sd3GridOptions grid_options(const Settings& settings) {
  if (settings.boolean("use_dynamic_shifting", false)) {
    throw Error(settings.name(), "use_dynamic_shifting false", "true");
  }
  return {.shift = settings.number("shift", 3),
          .num_train_timesteps = int(settings.integer("num_train_timesteps", 2, 1'000'000, 1000))};
}

}  // namespace contraflow::sd3
