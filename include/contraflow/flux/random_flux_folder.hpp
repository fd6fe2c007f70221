#pragma once

/// @file
/// Model folders of FLUX.1 with random weights, in the layout of the published one.

#include <cstdint>
#include <filesystem>
#include <vector>

#include <contraflow/flux/flux_folder.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/pipeline/random_weights.hpp>

namespace contraflow::flux {

/// The autoencoder of FLUX.1: that of Stable Diffusion 3.5 with other factors.
inline VaeOptions published_vae() {
  VaeOptions options;
  options.scaling_factor = 0.3611;
  options.shift_factor = 0.1159;
  return options;
}

/// The text encoder of CLIP in FLUX.1: ViT-L/14 without its projection.
inline ClipTextOptions published_clip() {
  ClipTextOptions options = clip_l_text();
  options.has_projection = false;
  return options;
}

/// What a folder with random weights holds: set what differs, member by member.
struct RandomFolderOptions {
  // No aggregate: g++ destroys a nested one twice where a later initialiser throws.
  RandomFolderOptions() = default;

  FluxOptions transformer = {};                ///< FLUX.1 [dev]'s by default
  GridOptions grid = {};                       ///< likewise
  VaeOptions vae = published_vae();            ///< the published one by default
  ClipTextOptions clip = published_clip();     ///< the published one by default
  T5Options t5 = {};                           ///< T5-XXL's encoder by default
  at::ScalarType dtype = at::kBFloat16;        ///< of all weights
  std::uint64_t shard_bytes = 10'000'000'000;  ///< most bytes of one file of transformer and T5
  std::uint64_t seed = 0;                      ///< of the weights
};

/// Networks of the published kinds and tiny sizes, for tests and first tries: some 200,000 weights
/// in all.
inline RandomFolderOptions tiny_folder(std::uint64_t seed = 0) {
  RandomFolderOptions options;
  options.transformer = {.num_layers = 2,
                         .num_single_layers = 2,
                         .num_attention_heads = 2,
                         .attention_head_dim = 16,
                         .joint_attention_dim = 48,
                         .pooled_projection_dim = 16,
                         .axes_dims_rope = {4, 6, 6}};
  options.vae.block_out_channels = {8, 16, 24, 24};
  options.vae.norm_num_groups = 4;
  options.clip.vocab_size = 514;
  options.clip.hidden_size = options.clip.projection_dim = 16;
  options.clip.intermediate_size = 64;
  options.clip.num_hidden_layers = 3;
  options.clip.num_attention_heads = 2;
  options.t5 = {
      .vocab_size = 128, .d_model = 48, .d_kv = 8, .d_ff = 96, .num_layers = 3, .num_heads = 4};
  options.dtype = at::kFloat;
  options.seed = seed;
  return options;
}

/// The same sizes as FLUX.1 [schnell] has them: without an embedding of guidance, and with an even
/// grid.
inline RandomFolderOptions as_schnell(RandomFolderOptions options) {
  options.transformer.guidance_embeds = false;
  options.grid.use_dynamic_shifting = false;
  return options;
}

namespace detail {

inline nlohmann::json config_of(const FluxOptions& options) {
  return {{"_class_name", "FluxTransformer2DModel"},
          {"patch_size", 1},
          {"in_channels", options.in_channels},
          {"out_channels", options.out_channels},
          {"num_layers", options.num_layers},
          {"num_single_layers", options.num_single_layers},
          {"num_attention_heads", options.num_attention_heads},
          {"attention_head_dim", options.attention_head_dim},
          {"joint_attention_dim", options.joint_attention_dim},
          {"pooled_projection_dim", options.pooled_projection_dim},
          {"guidance_embeds", options.guidance_embeds},
          {"axes_dims_rope", options.axes_dims_rope}};
}

inline nlohmann::json config_of(const GridOptions& options) {
  return {{"_class_name", "FlowMatchEulerDiscreteScheduler"},
          {"num_train_timesteps", 1000},
          {"use_dynamic_shifting", options.use_dynamic_shifting},
          {"shift", options.shift},
          {"base_image_seq_len", options.base_image_seq_len},
          {"max_image_seq_len", options.max_image_seq_len},
          {"base_shift", options.base_shift},
          {"max_shift", options.max_shift}};
}

inline nlohmann::json model_index() {
  return {{"_class_name", "FluxPipeline"},
          {"scheduler", {"diffusers", "FlowMatchEulerDiscreteScheduler"}},
          {"text_encoder", {"transformers", "CLIPTextModel"}},
          {"text_encoder_2", {"transformers", "T5EncoderModel"}},
          {"tokenizer", {"transformers", "CLIPTokenizer"}},
          {"tokenizer_2", {"transformers", "T5TokenizerFast"}},
          {"transformer", {"diffusers", "FluxTransformer2DModel"}},
          {"vae", {"diffusers", "AutoencoderKL"}}};
}

}  // namespace detail

/// Writes a model folder with random weights: every file that a downloaded one has, tokenizers of
/// our own included, tensor by tensor, so that it need not fit into memory.
///
/// The tokenizers know single bytes and letters only; they fit any vocabulary of at least 514
/// (CLIP) and 98 (T5) tokens.
/// @param path is made where it is missing
/// @param options sizes and seed
/// @param told called with the name of each component before it is written
/// @throws Error if a file cannot be written
template <class Told>
void write_random_folder(const std::filesystem::path& path, const RandomFolderOptions& options,
                         Told&& told) {
  const auto component = [&](const char* name) {
    told(name);
    make_folder(path / name);
    return path / name;
  };
  const RandomWeights weights{options.dtype, options.seed};
  constexpr const char* stem = "diffusion_pytorch_model";
  const std::filesystem::path scheduler = component("scheduler");
  write_json(path / "model_index.json", detail::model_index());
  write_json(scheduler / "scheduler_config.json", detail::config_of(options.grid));
  write_clip_tokenizer(component("tokenizer"), {},
                       {.length = options.clip.max_position_embeddings});
  write_component<ClipText>(component("text_encoder"), "model", options.clip,
                            config_of(options.clip), weights, 0);
  write_t5_tokenizer(component("tokenizer_2"), options.t5.vocab_size);
  write_component<T5Encoder>(component("text_encoder_2"), "model", options.t5,
                             config_of(options.t5), weights, 1, {}, options.shard_bytes);
  write_component<Vae>(component("vae"), stem, options.vae, config_of(options.vae), weights, 2);
  write_component<FluxNetwork>(component("transformer"), stem, options.transformer,
                               detail::config_of(options.transformer), weights, 3, {},
                               options.shard_bytes);
}
/// The same, silently.
inline void write_random_folder(const std::filesystem::path& path,
                                const RandomFolderOptions& options) {
  write_random_folder(path, options, [](const char*) {});
}

}  // namespace contraflow::flux
