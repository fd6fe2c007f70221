#pragma once

/// @file
/// Shape of the transformer of FLUX.1 and its grid, from the config.json files of a model folder;
/// the adapters that are usual for it.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>

#include <contraflow/flux/flux_grid.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/network/flux.hpp>
#include <contraflow/network/lora.hpp>

namespace contraflow::flux {

/// Shape of the transformer.
/// @param settings `transformer/config.json`; the published ones lack `axes_dims_rope` and
///   `out_channels`
/// @throws Error naming file and key, for a value that is missing or out of range
inline FluxOptions network_options(const Settings& settings) {
  FluxOptions options;
  settings.integer("patch_size", 1, 1, 1);
  options.in_channels = settings.size("in_channels");
  options.out_channels = settings.size("out_channels", options.in_channels);
  if (options.out_channels != options.in_channels) {
    throw Error(settings.name() + ": \"out_channels\"",
                "as in_channels (models that are given a picture, such as Fill, are not read)",
                shown(options.out_channels) + " for " + shown(options.in_channels));
  }
  options.num_layers = settings.integer("num_layers", 1, 1000);
  options.num_single_layers = settings.integer("num_single_layers", 1, 1000);
  options.num_attention_heads = settings.size("num_attention_heads");
  options.attention_head_dim = settings.size("attention_head_dim");
  options.joint_attention_dim = settings.size("joint_attention_dim");
  options.pooled_projection_dim = settings.size("pooled_projection_dim");
  options.guidance_embeds = settings.boolean("guidance_embeds", false);
  const auto axes = settings.integers("axes_dims_rope", {16, 56, 56});
  if (axes.size() != options.axes_dims_rope.size()) {
    throw Error(settings.name() + ": \"axes_dims_rope\"", "three numbers", shown(axes.size()));
  }
  std::copy(axes.begin(), axes.end(), options.axes_dims_rope.begin());
  const bool are_even =
      std::all_of(axes.begin(), axes.end(), [](std::int64_t n) { return n >= 2 && n % 2 == 0; });
  const auto sum = std::accumulate(axes.begin(), axes.end(), std::int64_t{0});
  if (!are_even || sum != options.attention_head_dim) {
    throw Error(settings.name() + ": \"axes_dims_rope\"", "even numbers, attention_head_dim in all",
                shown(at::IntArrayRef(axes)));
  }
  return options;
}

namespace detail {

inline Error other_grid(const Settings& settings, const std::string& key) {
  return Error(settings.name() + ": \"" + key + "\"", "none, as FLUX.1 has it",
               "a grid of another kind");
}

}  // namespace detail

/// Settings of the sampling grid.
/// @param settings `scheduler/scheduler_config.json`
/// @throws Error naming file and key, for a value that is out of range, or asks for another grid
inline GridOptions grid_options(const Settings& settings) {
  const GridOptions published;
  if (settings.has("time_shift_type")) settings.expects_text("time_shift_type", "exponential");
  for (const char* other :
       {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas"}) {
    if (settings.boolean(other, false)) throw detail::other_grid(settings, other);
  }
  if (settings.number("shift_terminal", 0) != 0) {
    throw detail::other_grid(settings, "shift_terminal");
  }
  const GridOptions options{
      .use_dynamic_shifting = settings.boolean("use_dynamic_shifting", false),
      .shift = settings.number("shift", published.shift),
      .base_image_seq_len = settings.integer("base_image_seq_len", published.base_image_seq_len),
      .max_image_seq_len = settings.integer("max_image_seq_len", published.max_image_seq_len),
      .base_shift = settings.number("base_shift", published.base_shift),
      .max_shift = settings.number("max_shift", published.max_shift)};
  if (options.shift <= 0) {
    throw Error(settings.name() + ": \"shift\"", "above 0", shown(options.shift));
  }
  if (options.max_image_seq_len == options.base_image_seq_len) {
    throw Error(settings.name() + ": \"max_image_seq_len\"",
                "another number than base_image_seq_len", shown(options.max_image_seq_len));
  }
  return options;
}

/// The adapters that published trainers of FLUX.1 [dev] use: rank 64, alpha 128, on twelve layers
/// of a block of two streams, whose attention's names select those of a block of one, too. 342
/// layers in all.
inline LoraOptions lora_options() {
  return {.rank = 64,
          .alpha = 128,
          .targets = {"attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj",
                      "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out", "ff.net.0.proj",
                      "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"}};
}

}  // namespace contraflow::flux
