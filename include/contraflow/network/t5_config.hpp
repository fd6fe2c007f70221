#pragma once

/// @file
/// Shape of the encoder of T5, from the config.json that transformers writes beside its weights.

#include <contraflow/io/settings.hpp>
#include <contraflow/network/t5.hpp>

namespace contraflow {

/// Shape of the encoder of T5.
/// @param settings its `config.json`
/// @throws Error naming file and key, for a value that is missing or out of range
inline T5Options t5_options(const Settings& settings) {
  T5Options options;
  options.vocab_size = settings.integer("vocab_size", 1, 10'000'000);
  options.d_model = settings.size("d_model");
  options.d_kv = settings.size("d_kv");
  options.d_ff = settings.size("d_ff");
  options.num_layers = settings.integer("num_layers", 1, 1000);
  options.num_heads = settings.size("num_heads");
  options.relative_attention_num_buckets = settings.size("relative_attention_num_buckets", 32);
  options.relative_attention_max_distance = settings.size("relative_attention_max_distance", 128);
  options.layer_norm_epsilon = settings.number("layer_norm_epsilon", options.layer_norm_epsilon);
  settings.expects_text("feed_forward_proj", "gated-gelu");
  return options;
}

}  // namespace contraflow
