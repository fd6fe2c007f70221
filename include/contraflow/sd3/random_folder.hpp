#pragma once

/// @file
/// Model folders with random weights, in the layout of the published one.

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/io/file.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/io/safetensors.hpp>
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
  std::uint64_t shard_bytes = 5'000'000'000;  ///< most bytes of one file of T5
  std::uint64_t seed = 0;                     ///< of the weights
};

/// Networks of the published kinds and tiny sizes, for tests and first tries: some 100,000 weights
/// in all.
inline RandomFolderOptions tiny_folder(std::uint64_t seed = 0) {
  RandomFolderOptions options;
  options.transformer = {.sample_size = 8,
                         .num_layers = 3,
                         .num_attention_heads = 2,
                         .attention_head_dim = 16,
                         .joint_attention_dim = 48,
                         .caption_projection_dim = 32,
                         .pooled_projection_dim = 40,
                         .pos_embed_max_size = 24,
                         .dual_attention_layers = {0}};
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

inline nlohmann::json config_of(const VaeOptions& options) {
  const std::size_t levels = options.block_out_channels.size();
  return {{"_class_name", "AutoencoderKL"},
          {"act_fn", "silu"},
          {"in_channels", options.in_channels},
          {"out_channels", options.out_channels},
          {"latent_channels", options.latent_channels},
          {"layers_per_block", options.layers_per_block},
          {"block_out_channels", options.block_out_channels},
          {"down_block_types", std::vector<std::string>(levels, "DownEncoderBlock2D")},
          {"up_block_types", std::vector<std::string>(levels, "UpDecoderBlock2D")},
          {"norm_num_groups", options.norm_num_groups},
          {"use_quant_conv", options.use_quant_conv},
          {"use_post_quant_conv", options.use_post_quant_conv},
          {"mid_block_add_attention", options.mid_block_add_attention},
          {"scaling_factor", options.scaling_factor},
          {"shift_factor", options.shift_factor}};
}

inline nlohmann::json config_of(const ClipTextOptions& options) {
  return {{"architectures", {"CLIPTextModelWithProjection"}},
          {"model_type", "clip_text_model"},
          {"vocab_size", options.vocab_size},
          {"max_position_embeddings", options.max_position_embeddings},
          {"hidden_size", options.hidden_size},
          {"intermediate_size", options.intermediate_size},
          {"projection_dim", options.projection_dim},
          {"num_hidden_layers", options.num_hidden_layers},
          {"num_attention_heads", options.num_attention_heads},
          {"hidden_act", options.hidden_act == Activation::gelu ? "gelu" : "quick_gelu"},
          {"layer_norm_eps", options.layer_norm_eps},
          {"bos_token_id", 0},
          {"eos_token_id", options.eos_token_id},
          {"pad_token_id", 1}};
}

inline nlohmann::json config_of(const T5Options& options) {
  return {{"architectures", {"T5EncoderModel"}},
          {"model_type", "t5"},
          {"vocab_size", options.vocab_size},
          {"d_model", options.d_model},
          {"d_kv", options.d_kv},
          {"d_ff", options.d_ff},
          {"num_layers", options.num_layers},
          {"num_heads", options.num_heads},
          {"relative_attention_num_buckets", options.relative_attention_num_buckets},
          {"relative_attention_max_distance", options.relative_attention_max_distance},
          {"layer_norm_epsilon", options.layer_norm_epsilon},
          {"feed_forward_proj", "gated-gelu"},
          {"is_encoder_decoder", false},
          {"use_cache", false},
          {"pad_token_id", 0},
          {"eos_token_id", 1}};
}

/// A weight of random folders: scaled so that what passes through the networks keeps its size and
/// gates and norms show in the result.
inline Tensor folder_weight(const std::string& name, at::IntArrayRef shape, Generator& generator) {
  if (shape.size() == 1) {
    const Tensor noise = normal(shape, generator);
    return name.ends_with("bias") ? noise * 0.1 : noise * 0.1 + 1;
  }
  return initial_weight(name, shape, generator);
}

/// Writes a network's weights, one in memory at a time, in files of at most @p most_bytes.
/// @param values of the weights that are not drawn, such as tables; may be empty
inline void write_random_weights(const torch::nn::Module& network,
                                 const std::filesystem::path& folder, const std::string& stem,
                                 const RandomFolderOptions& options, std::uint64_t stream,
                                 const std::function<Tensor(const std::string&)>& values,
                                 std::uint64_t most_bytes) {
  std::vector<std::vector<TensorInfo>> shards(1);
  std::uint64_t bytes = 0, total = 0;
  for (const auto& [name, weight] : named_weights(network)) {
    const auto size = std::uint64_t(weight.numel()) * c10::elementSize(options.dtype);
    if (bytes + size > most_bytes && !shards.back().empty()) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += size;
    total += size;
    shards.back().push_back({name, options.dtype, weight.sizes().vec()});
  }
  nlohmann::json map = nlohmann::json::object();
  Generator generator = seeded(stream_seed(options.seed, stream));
  const auto number = [](std::size_t i) {
    const std::string digits = std::to_string(i);
    return std::string(5 - std::min<std::size_t>(5, digits.size()), '0') + digits;
  };
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string part = "-" + number(i + 1) + "-of-" + number(shards.size());
    const std::string file = stem + (shards.size() > 1 ? part : "") + ".safetensors";
    SafetensorsWriter writer(folder / file, shards[i], {{"format", "pt"}});
    for (const TensorInfo& info : shards[i]) {
      Tensor value = values ? values(info.name) : Tensor();
      if (!value.defined()) value = folder_weight(info.name, info.shape, generator);
      writer.write(info.name, value.to(options.dtype));
      map[info.name] = file;
    }
    writer.publish();
  }
  if (shards.size() == 1) return;
  write_json(folder / (stem + ".safetensors.index.json"),
             {{"metadata", {{"total_size", total}}}, {"weight_map", map}});
}

inline std::vector<std::pair<std::string, float>> letter_pieces(std::int64_t vocabulary) {
  std::vector<std::pair<std::string, float>> pieces{{"\xE2\x96\x81", -3.0F}};
  for (char letter = '!'; letter <= '~'; ++letter)
    pieces.emplace_back(std::string(1, letter), -4.0F);
  const auto most = std::size_t(std::max<std::int64_t>(vocabulary - 3, 1));
  if (pieces.size() > most) pieces.resize(most);
  return pieces;
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

/// A component with random weights and the config.json that says its shape.
template <class Network, class Options>
void write_component(const std::filesystem::path& folder, const char* stem, const Options& shape,
                     const RandomFolderOptions& options, std::uint64_t stream,
                     const std::function<Tensor(const std::string&)>& values = {},
                     std::uint64_t most_bytes = ~std::uint64_t{0}) {
  write_json(folder / "config.json", config_of(shape));
  write_random_weights(Network(shape), folder, stem, options, stream, values, most_bytes);
}

inline void write_t5_tokenizer(const std::filesystem::path& folder, std::int64_t vocabulary) {
  write_unigram_model(folder / "spiece.model", letter_pieces(vocabulary));
  write_json(folder / "tokenizer_config.json", {{"tokenizer_class", "T5Tokenizer"},
                                                {"eos_token", "</s>"},
                                                {"pad_token", "<pad>"},
                                                {"unk_token", "<unk>"},
                                                {"extra_ids", 0},
                                                {"model_max_length", 512}});
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
  detail::write_component<ClipText>(component("text_encoder"), "model", options.clip_l, options, 0);
  detail::write_component<ClipText>(component("text_encoder_2"), "model", options.clip_g, options,
                                    1);
  if (options.with_t5) {
    detail::write_t5_tokenizer(component("tokenizer_3"), options.t5.vocab_size);
    detail::write_component<T5Encoder>(component("text_encoder_3"), "model", options.t5, options, 2,
                                       {}, options.shard_bytes);
  }
  constexpr const char* stem = "diffusion_pytorch_model";
  detail::write_component<Vae>(component("vae"), stem, options.vae, options, 3);
  const auto table = [&](const std::string& name) {
    return name == "pos_embed.pos_embed" ? position_table(options.transformer) : Tensor();
  };
  detail::write_component<MmditNetwork>(component("transformer"), stem, options.transformer,
                                        options, 4, table);
}
/// The same, silently.
inline void write_random_folder(const std::filesystem::path& path,
                                const RandomFolderOptions& options) {
  write_random_folder(path, options, [](const char*) {});
}

}  // namespace contraflow::sd3
