#pragma once

/// @file
/// Components with random weights, in the layout of diffusers: what folders of all models share.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/io/json.hpp>
#include <contraflow/io/safetensors.hpp>
#include <contraflow/network/clip.hpp>
#include <contraflow/network/t5.hpp>
#include <contraflow/network/vae.hpp>
#include <contraflow/network/weights.hpp>
#include <contraflow/text/t5_tokenizer.hpp>

namespace contraflow::pipeline {

/// How weights of a folder are drawn.
struct RandomWeights {
  at::ScalarType dtype = at::kBFloat16;  ///< of all weights
  std::uint64_t seed = 0;                ///< of a stream for each component
};

/// The config.json of the autoencoder.
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

/// The config.json of a text tower of CLIP.
inline nlohmann::json config_of(const ClipTextOptions& options) {
  return {
      {"architectures", {options.has_projection ? "CLIPTextModelWithProjection" : "CLIPTextModel"}},
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

/// The config.json of the encoder of T5.
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

namespace detail {

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
                                 const RandomWeights& options, std::uint64_t stream,
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

}  // namespace detail

/// A component with random weights and the config.json that says its shape.
/// @param folder of the component
/// @param stem of the file of weights, before its ending
/// @param shape that the network is made of
/// @param config to be written beside the weights
/// @param options seed and dtype
/// @param stream of the component, so that no two draw the same
/// @param values of the weights that are not drawn, such as tables; may be empty
/// @param most_bytes of a file
template <class Network, class Options>
void write_component(const std::filesystem::path& folder, const char* stem, const Options& shape,
                     const nlohmann::json& config, const RandomWeights& options,
                     std::uint64_t stream,
                     const std::function<Tensor(const std::string&)>& values = {},
                     std::uint64_t most_bytes = ~std::uint64_t{0}) {
  write_json(folder / "config.json", config);
  detail::write_random_weights(Network(shape), folder, stem, options, stream, values, most_bytes);
}

/// A tokenizer of T5 that knows single letters only.
/// @param folder is there
/// @param vocabulary at least 98 for all letters
inline void write_t5_tokenizer(const std::filesystem::path& folder, std::int64_t vocabulary) {
  write_unigram_model(folder / "spiece.model", detail::letter_pieces(vocabulary));
  write_json(folder / "tokenizer_config.json", {{"tokenizer_class", "T5Tokenizer"},
                                                {"eos_token", "</s>"},
                                                {"pad_token", "<pad>"},
                                                {"unk_token", "<unk>"},
                                                {"extra_ids", 0},
                                                {"model_max_length", 512}});
}

}  // namespace contraflow::pipeline
