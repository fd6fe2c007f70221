#pragma once

/// @file
/// CLIP's weights under the names of OpenCLIP.

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

namespace detail {

using Renaming = std::pair<std::string_view, std::string_view>;

// What each tower's names begin with in OpenCLIP, and in transformers. The first that fits counts.
inline constexpr std::array<Renaming, 13> open_clip_beginnings{{
    {"visual.transformer.resblocks.", "vision_model.encoder.layers."},
    {"visual.class_embedding", "vision_model.embeddings.class_embedding"},
    {"visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"},
    {"visual.conv1.", "vision_model.embeddings.patch_embedding."},
    {"visual.ln_pre.", "vision_model.pre_layrnorm."},
    {"visual.ln_post.", "vision_model.post_layernorm."},
    {"visual.proj", "visual_projection.weight"},
    {"transformer.resblocks.", "text_model.encoder.layers."},
    {"token_embedding.", "text_model.embeddings.token_embedding."},
    {"positional_embedding", "text_model.embeddings.position_embedding.weight"},
    {"ln_final.", "text_model.final_layer_norm."},
    {"text_projection", "text_projection.weight"},
    {"logit_scale", "logit_scale"},
}};

// The parts of a layer.
inline constexpr std::array<Renaming, 5> open_clip_parts{{
    {".ln_1.", ".layer_norm1."},
    {".ln_2.", ".layer_norm2."},
    {".attn.out_proj.", ".self_attn.out_proj."},
    {".mlp.c_fc.", ".mlp.fc1."},
    {".mlp.c_proj.", ".mlp.fc2."},
}};

inline std::string renamed_from_open_clip(std::string name) {
  for (const auto& [from, to] : open_clip_beginnings) {
    if (!name.starts_with(from)) continue;
    name.replace(0, from.size(), to);
    break;
  }
  for (const auto& [from, to] : open_clip_parts) {
    const std::size_t found = name.find(from);
    if (found != std::string::npos) name.replace(found, from.size(), to);
  }
  return name;
}

}  // namespace detail

/// The weights of an OpenCLIP model under the names of contraflow::Clip.
///
/// OpenCLIP keeps query, key and value in one matrix, which is split, and its projections the other
/// way round. Weights under any other name keep it, so that a strict load names them.
/// @param weights state dict of open_clip's CLIP
/// @return state dict of transformers' CLIPModel; rows of the same tensors where possible
/// @throws Error for a weight that cannot be split in three or transposed
inline std::map<std::string, Tensor> clip_weights_from_open_clip(
    const std::map<std::string, Tensor>& weights) {
  constexpr std::string_view fused = ".attn.in_proj_";
  std::map<std::string, Tensor> result;
  for (const auto& [name, weight] : weights) {
    const std::string own = detail::renamed_from_open_clip(name);
    const std::size_t found = own.find(fused);
    if (found != std::string::npos) {
      expects(weight.dim() >= 1 && weight.size(0) % 3 == 0, name.c_str(), "three matrices in one",
              shape_text(weight));
      const auto parts = weight.chunk(3);
      const std::string before = own.substr(0, found), after = own.substr(found + fused.size());
      for (const auto& [index, part] : {std::pair{0, "q"}, std::pair{1, "k"}, std::pair{2, "v"}}) {
        result.emplace(before + ".self_attn." + part + "_proj." + after, parts[std::size_t(index)]);
      }
    } else if (name == "visual.proj" || name == "text_projection") {
      expects(weight.dim() == 2, name.c_str(), "a matrix", shape_text(weight));
      result.emplace(own, weight.t().contiguous());
    } else {
      result.emplace(own, weight);
    }
  }
  return result;
}

}  // namespace contraflow
