#pragma once

/// @file
/// Model folders with random weights, in the layout of the published one.

#include <cstdint>
#include <filesystem>
#include <string>

#include <contraflow/io/file.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/pipeline/random_weights.hpp>
#include <contraflow/sd3/folder.hpp>

namespace contraflow::sd3 {

/// What a folder with random weights holds: set what differs, member by member.
struct RandomFolderOptions {
  // No aggregate: g++ destroys a nested one twice where a later initialiser throws.
  RandomFolderOptions() = default;

  MmditOptions transformer = {};              ///< Stable Diffusion 3.5 Medium's by default
  VaeOptions vae = {};                        ///< the published one by default
  ClipTextOptions clip_l = clip_l_text();     ///< the published one by default
  ClipTextOptions clip_g = clip_g_text();     ///< the published one by default
  T5Options t5 = {};                          ///< T5-XXL's encoder by default
  bool with_t5 = true;                        ///< whether there is a third text encoder
  at::ScalarType dtype = at::kBFloat16;       ///< of all weights
  std::uint64_t shard_bytes = 5'000'000'000;  ///< most bytes of one file of transformer and T5
  std::uint64_t seed = 0;                     ///< of the weights
};

/// Networks of the published kinds and tiny sizes, for tests and first tries: some 100,000 weights
/// in all.
/// @param seed of the weights
/// @param kind the model whose kinds of layers the transformer has: sd3_medium(), sd35_large(), or
///   Stable Diffusion 3.5 Medium
inline RandomFolderOptions tiny_folder(std::uint64_t seed = 0, const MmditOptions& kind = {}) {
  RandomFolderOptions options;
  options.transformer = {.sample_size = 8,
                         .num_layers = 3,
                         .num_attention_heads = 2,
                         .attention_head_dim = 16,
                         .joint_attention_dim = 48,
                         .caption_projection_dim = 32,
                         .pooled_projection_dim = 40,
                         .pos_embed_max_size = 24,
                         .dual_attention_layers = {},
                         .qk_norm = kind.qk_norm};
  if (!kind.dual_attention_layers.empty()) options.transformer.dual_attention_layers = {0};
  options.vae.block_out_channels = {8, 16, 24, 24};
  options.vae.norm_num_groups = 4;
  const ClipTextOptions clip{.vocab_size = 514,
                             .hidden_size = 16,
                             .intermediate_size = 64,
                             .projection_dim = 16,
                             .num_hidden_layers = 3,
                             .num_attention_heads = 2};
  options.clip_l = options.clip_g = clip;
  options.clip_g.hidden_size = options.clip_g.projection_dim = 24;
  options.clip_g.intermediate_size = 96;
  options.clip_g.num_attention_heads = 3;
  options.clip_g.hidden_act = Activation::gelu;
  options.t5 = {
      .vocab_size = 128, .d_model = 48, .d_kv = 8, .d_ff = 96, .num_layers = 3, .num_heads = 4};
  options.dtype = at::kFloat;
  options.seed = seed;
  return options;
}

namespace detail {

inline nlohmann::json config_of(const MmditOptions& options) {
  return {{"_class_name", "SD3Transformer2DModel"},
          {"sample_size", options.sample_size},
          {"patch_size", options.patch_size},
          {"in_channels", options.in_channels},
          {"out_channels", options.out_channels},
          {"num_layers", options.num_layers},
          {"num_attention_heads", options.num_attention_heads},
          {"attention_head_dim", options.attention_head_dim},
          {"joint_attention_dim", options.joint_attention_dim},
          {"caption_projection_dim", options.caption_projection_dim},
          {"pooled_projection_dim", options.pooled_projection_dim},
          {"pos_embed_max_size", options.pos_embed_max_size},
          {"dual_attention_layers", options.dual_attention_layers},
          {"qk_norm", options.qk_norm ? nlohmann::json("rms_norm") : nlohmann::json()}};
}

inline nlohmann::json model_index(bool with_t5) {
  nlohmann::json index = {
      {"_class_name", "StableDiffusion3Pipeline"},
      {"scheduler", {"diffusers", "FlowMatchEulerDiscreteScheduler"}},
      {"text_encoder", {"transformers", "CLIPTextModelWithProjection"}},
      {"text_encoder_2", {"transformers", "CLIPTextModelWithProjection"}},
      {"text_encoder_3", {nullptr, nullptr}},
      {"tokenizer", {"transformers", "CLIPTokenizer"}},
      {"tokenizer_2", {"transformers", "CLIPTokenizer"}},
      {"tokenizer_3", {nullptr, nullptr}},
      {"transformer", {"diffusers", "SD3Transformer2DModel"}},
      {"vae", {"diffusers", "AutoencoderKL"}},
  };
  if (!with_t5) return index;
  index["text_encoder_3"] = {"transformers", "T5EncoderModel"};
  index["tokenizer_3"] = {"transformers", "T5TokenizerFast"};
  return index;
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
  const std::filesystem::path scheduler = component("scheduler");
  write_json(path / "model_index.json", detail::model_index(options.with_t5));
  write_json(scheduler / "scheduler_config.json",
             {{"_class_name", "FlowMatchEulerDiscreteScheduler"},
              {"num_train_timesteps", 1000},
              {"shift", 3.0}});
  write_clip_tokenizer(component("tokenizer"), {},
                       {.length = options.clip_l.max_position_embeddings});
  write_clip_tokenizer(component("tokenizer_2"), {},
                       {.pad = "!", .length = options.clip_g.max_position_embeddings});
  const RandomWeights weights{options.dtype, options.seed};
  write_component<ClipText>(component("text_encoder"), "model", options.clip_l,
                            config_of(options.clip_l), weights, 0);
  write_component<ClipText>(component("text_encoder_2"), "model", options.clip_g,
                            config_of(options.clip_g), weights, 1);
  if (options.with_t5) {
    write_t5_tokenizer(component("tokenizer_3"), options.t5.vocab_size);
    write_component<T5Encoder>(component("text_encoder_3"), "model", options.t5,
                               config_of(options.t5), weights, 2, {}, options.shard_bytes);
  }
  constexpr const char* stem = "diffusion_pytorch_model";
  write_component<Vae>(component("vae"), stem, options.vae, config_of(options.vae), weights, 3);
  const auto table = [&](const std::string& name) {
    return name == "pos_embed.pos_embed" ? position_table(options.transformer) : Tensor();
  };
  write_component<MmditNetwork>(component("transformer"), stem, options.transformer,
                                detail::config_of(options.transformer), weights, 4, table,
                                options.shard_bytes);
}
/// The same, silently.
inline void write_random_folder(const std::filesystem::path& path,
                                const RandomFolderOptions& options) {
  write_random_folder(path, options, [](const char*) {});
}

}  // namespace contraflow::sd3
