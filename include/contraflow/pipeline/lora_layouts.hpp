#pragma once

/// @file
/// The names that other tools give the layers of an adapter, and what they are in diffusers.

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <map>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <contraflow/network/lora.hpp>

namespace contraflow {

/// What becomes of the parts of an adapter that belong to text encoders, which are not adapted
/// here: without them the adapter does less than it was trained to.
enum class EncoderParts {
  refuse,     ///< an error that names one of them
  leave_out,  ///< the transformer's part is read alone
};

namespace detail {

/// A layer in its original layout, and what it is in that of diffusers: three layers where queries,
/// keys and values are one, with a fourth, four times as wide, where a feed-forward layer is, too.
struct NamedLayers {
  std::string_view original;
  std::array<std::string_view, 4> layers;
};

/// Of the blocks of Stable Diffusion 3.

inline constexpr std::array<NamedLayers, 12> layers_of_blocks{{
    {"x_block.attn.qkv", {"attn.to_q", "attn.to_k", "attn.to_v"}},
    {"x_block.attn.proj", {"attn.to_out.0"}},
    {"x_block.attn2.qkv", {"attn2.to_q", "attn2.to_k", "attn2.to_v"}},
    {"x_block.attn2.proj", {"attn2.to_out.0"}},
    {"x_block.mlp.fc1", {"ff.net.0.proj"}},
    {"x_block.mlp.fc2", {"ff.net.2"}},
    {"x_block.adaLN_modulation.1", {"norm1.linear"}},
    {"context_block.attn.qkv", {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"}},
    {"context_block.attn.proj", {"attn.to_add_out"}},
    {"context_block.mlp.fc1", {"ff_context.net.0.proj"}},
    {"context_block.mlp.fc2", {"ff_context.net.2"}},
    {"context_block.adaLN_modulation.1", {"norm1_context.linear"}},
}};

/// Of FLUX.1, with XLabs' names (1 is the image, 2 the text) beside the original ones.
inline constexpr std::array<NamedLayers, 14> layers_of_double_blocks{{
    {"img_attn.qkv", {"attn.to_q", "attn.to_k", "attn.to_v"}},
    {"img_attn.proj", {"attn.to_out.0"}},
    {"img_mlp.0", {"ff.net.0.proj"}},
    {"img_mlp.2", {"ff.net.2"}},
    {"img_mod.lin", {"norm1.linear"}},
    {"txt_attn.qkv", {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"}},
    {"txt_attn.proj", {"attn.to_add_out"}},
    {"txt_mlp.0", {"ff_context.net.0.proj"}},
    {"txt_mlp.2", {"ff_context.net.2"}},
    {"txt_mod.lin", {"norm1_context.linear"}},
    {"processor.qkv_lora1", {"attn.to_q", "attn.to_k", "attn.to_v"}},
    {"processor.proj_lora1", {"attn.to_out.0"}},
    {"processor.qkv_lora2", {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"}},
    {"processor.proj_lora2", {"attn.to_add_out"}},
}};

inline constexpr std::array<NamedLayers, 5> layers_of_single_blocks{{
    {"linear1", {"attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"}},
    {"linear2", {"proj_out"}},
    {"modulation.lin", {"norm.linear"}},
    {"processor.qkv_lora", {"attn.to_q", "attn.to_k", "attn.to_v"}},
    {"processor.proj_lora", {"proj_out"}},
}};

/// Those of both models: what they share has one name.
inline constexpr std::array<NamedLayers, 15> layers_of_roots{{
    {"context_embedder", {"context_embedder"}},
    {"t_embedder.mlp.0", {"time_text_embed.timestep_embedder.linear_1"}},
    {"t_embedder.mlp.2", {"time_text_embed.timestep_embedder.linear_2"}},
    {"y_embedder.mlp.0", {"time_text_embed.text_embedder.linear_1"}},
    {"y_embedder.mlp.2", {"time_text_embed.text_embedder.linear_2"}},
    {"final_layer.adaLN_modulation.1", {"norm_out.linear"}},
    {"final_layer.linear", {"proj_out"}},
    {"img_in", {"x_embedder"}},
    {"txt_in", {"context_embedder"}},
    {"time_in.in_layer", {"time_text_embed.timestep_embedder.linear_1"}},
    {"time_in.out_layer", {"time_text_embed.timestep_embedder.linear_2"}},
    {"vector_in.in_layer", {"time_text_embed.text_embedder.linear_1"}},
    {"vector_in.out_layer", {"time_text_embed.text_embedder.linear_2"}},
    {"guidance_in.in_layer", {"time_text_embed.guidance_embedder.linear_1"}},
    {"guidance_in.out_layer", {"time_text_embed.guidance_embedder.linear_2"}},
}};

/// A layer's name as kohya's tools write it.
inline std::string flattened(std::string_view name) {
  std::string flat(name);
  std::replace(flat.begin(), flat.end(), '.', '_');
  return flat;
}

/// What a layer is in diffusers' names; none where it is not known.
struct KnownLayers {
  std::vector<std::string> layers = {};
  bool is_original = false;  ///< by its original name
};

template <class Table>
KnownLayers known_in(const Table& table, const std::string& prefix, const std::string& flat) {
  for (const NamedLayers& known : table) {
    KnownLayers found;
    for (const std::string_view layer : known.layers) {
      if (layer.empty()) continue;
      if (flattened(layer) == flat) return {{prefix + std::string(layer)}, false};
      found.layers.push_back(prefix + std::string(layer));
    }
    found.is_original = true;
    if (flattened(known.original) == flat) return found;
  }
  return {};
}

/// @param name of a layer, with dots or kohya's underscores, in the original layout or in
/// diffusers'
inline KnownLayers known_layers(const std::string& name) {
  const std::string flat = flattened(name);
  KnownLayers found;
  const auto is_of = [&](const std::string& blocks, const std::string& own, const auto& table) {
    if (!flat.starts_with(blocks)) return false;
    const auto digit = [](unsigned char c) { return std::isdigit(c) != 0; };
    const auto begin = flat.begin() + std::ptrdiff_t(blocks.size());
    const auto end = std::find_if_not(begin, flat.end(), digit);
    if (begin != end && end != flat.end() && *end == '_') {
      found =
          known_in(table, own + std::string(begin, end) + ".", std::string(end + 1, flat.end()));
    }
    return true;
  };
  // Under diffusers' names a block of two streams has layers that a joint block has, too.
  const bool is_of_block =
      is_of("joint_blocks_", "transformer_blocks.", layers_of_blocks) ||
      is_of("transformer_blocks_", "transformer_blocks.", layers_of_blocks) ||
      is_of("double_blocks_", "transformer_blocks.", layers_of_double_blocks) ||
      is_of("single_blocks_", "single_transformer_blocks.", layers_of_single_blocks) ||
      is_of("single_transformer_blocks_", "single_transformer_blocks.", layers_of_single_blocks);
  return is_of_block ? found : known_in(layers_of_roots, "", flat);
}

/// The name of a tensor of an adapter, taken apart.
struct LoraName {
  std::string module;    ///< without what stands for the whole network
  std::string part;      ///< `.lora_A.weight`, `.lora_B.weight`, `.alpha`; else nothing
  bool is_flat = false;  ///< with underscores for dots
  bool has_prefix = false;
};

inline LoraName taken_apart(std::string name) {
  static const std::vector<std::pair<std::string, std::string>> parts{
      {LoraWeights::down_suffix, LoraWeights::down_suffix},
      {LoraWeights::up_suffix, LoraWeights::up_suffix},
      {".lora_down.weight", LoraWeights::down_suffix},
      {".lora_up.weight", LoraWeights::up_suffix},
      {".lora.down.weight", LoraWeights::down_suffix},
      {".lora.up.weight", LoraWeights::up_suffix},
      {".down.weight", LoraWeights::down_suffix},
      {".up.weight", LoraWeights::up_suffix},
      {".alpha", ".alpha"}};
  LoraName result;
  for (const auto& [written, part] : parts) {
    if (!name.ends_with(written)) continue;
    result.part = part;
    name.resize(name.size() - written.size());
    break;
  }
  for (const std::string prefix : {"transformer.", "base_model.model.", "model.diffusion_model.",
                                   "diffusion_model.", "lora_transformer_", "lora_unet_"}) {
    if (!name.starts_with(prefix)) continue;
    result.has_prefix = true;
    result.is_flat = prefix.ends_with("_");
    name.erase(0, prefix.size());
    break;
  }
  result.module = std::move(name);
  return result;
}

/// Whether a tensor belongs to a text encoder, by the names of all tools.
inline bool is_of_text_encoder(const std::string& name) {
  for (const char* encoder : {"lora_te", "text_encoder", "clip_l.", "clip_g.", "t5xxl."}) {
    if (name.starts_with(encoder)) return true;
  }
  return false;
}

/// Refuses adapters that are more than a product of two matrices, by the names of their tensors.
inline void expects_plain_names(const std::string& name, const std::string& source) {
  static const std::vector<std::pair<std::string, std::string>> kinds{
      {"magnitude", "DoRA's "}, {".dora_scale", "DoRA's "}, {".hada_", "LoHa's "},
      {".lokr_", "LoKr's "},    {".lora_mid.", "LoCon's "}, {".oft_", "OFT's "}};
  for (const auto& [mark, kind] : kinds) {
    if (name.find(mark) != std::string::npos) throw Error(source, "a plain adapter", kind + name);
  }
  const bool is_whole = name.ends_with(".diff") || name.ends_with(".diff_b") ||
                        name.ends_with("_norm.scale") || name.ends_with(".lora_B.bias");
  if (is_whole) {
    throw Error(source, "a plain adapter", "a change of whole weights, " + name);
  }
}

/// The tensors of an adapter's file: layers without prefixes, parts in peft's names.
inline std::map<std::string, Tensor> in_known_names(const std::map<std::string, Tensor>& tensors,
                                                    EncoderParts encoders,
                                                    const std::string& source) {
  std::map<std::string, Tensor> result;
  for (const auto& [name, tensor] : tensors) {
    expects_plain_names(name, source);
    if (is_of_text_encoder(name)) {
      if (encoders == EncoderParts::leave_out) continue;
      throw Error(source,
                  "an adapter of the transformer alone (EncoderParts::leave_out reads that part, "
                  "in programs "
                  "--lora-without-text-encoders)",
                  "one of a text encoder, " + name);
    }
    const LoraName known = taken_apart(name);
    const bool is_known = !known_layers(known.module).layers.empty();
    if (known.is_flat && !is_known) {
      throw Error(source, "layers of Stable Diffusion 3 or FLUX.1 in kohya's names", name);
    }
    if (!known.has_prefix && !is_known) {
      throw Error(source,
                  "names of diffusers, peft or kohya, or of the original layout: that begin with "
                  "transformer., base_model.model., lora_unet_ or diffusion_model.",
                  name);
    }
    if (!result.emplace(known.module + known.part, tensor).second) {
      throw Error(source, "each layer once", name + " in two layouts");
    }
  }
  return result;
}

/// The rows of each layer, of B of layers that are one in the original layout.
/// @param is_swapped whether they are a shift and a scale, which change places in diffusers
inline std::vector<Tensor> rows_of_layers(const Tensor& up, std::size_t layers, bool is_swapped,
                                          const std::string& name, const std::string& source) {
  std::vector<std::int64_t> sizes(is_swapped ? 2 : layers, 1);
  if (layers == 4) sizes.back() = 4;
  const auto parts = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  if (up.dim() != 2 || up.size(0) % parts != 0) {
    throw Error(source, std::to_string(sizes.size()) + " layers in " + name, shape_text(up));
  }
  for (std::int64_t& size : sizes) size *= up.size(0) / parts;
  const auto rows = up.split_with_sizes(sizes);
  return is_swapped ? std::vector<Tensor>{at::cat({rows[1], rows[0]})} : rows;
}

/// An adapter of the original layout in that of diffusers: queries, keys and values that are one
/// layer, with a feed-forward layer or without, share A and divide the rows of B; of the last
/// modulations shift and scale change places.
inline LoraWeights in_diffusers_layout(const LoraWeights& weights, const std::string& source) {
  LoraWeights result{{}, weights.alpha, {}};
  const auto add = [&](const std::string& name, const Tensor& tensor) {
    if (!result.tensors.emplace(name, tensor).second) {
      throw Error(source, "each layer once", name + " in two layouts");
    }
  };
  for (const auto& [name, tensor] : weights.tensors) {
    const auto [module, part, is_flat, has_prefix] = taken_apart(name);
    const KnownLayers known = known_layers(module);
    if (known.layers.empty() || part.empty()) {
      add(name, tensor);
      continue;
    }
    const auto down = weights.tensors.find(module + LoraWeights::down_suffix);
    const bool is_up = part == LoraWeights::up_suffix && known.is_original;
    const bool is_swapped = module.find("adaLN") != std::string::npos &&
                            down != weights.tensors.end() && down->second.dim() == 2 &&
                            tensor.dim() == 2 && tensor.size(0) % 2 == 0 &&
                            tensor.size(0) / 2 == down->second.size(1);
    const auto rows = is_up ? rows_of_layers(tensor, known.layers.size(), is_swapped, name, source)
                            : std::vector<Tensor>(known.layers.size(), tensor);
    for (std::size_t i = 0; i < rows.size(); ++i) add(known.layers[i] + part, rows[i]);
  }
  for (const auto& [module, alpha] : weights.alphas) {
    const KnownLayers known = known_layers(module);
    if (known.layers.empty()) result.alphas[module] = alpha;
    for (const std::string& layer : known.layers) result.alphas[layer] = alpha;
  }
  return result;
}

}  // namespace detail

}  // namespace contraflow
