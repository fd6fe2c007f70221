#pragma once

#include <memory>

#include <contraflow/model/mlp.hpp>
#include <contraflow/model/mmdit.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/policy/snapshot_policy.hpp>
#include <contraflow/train/prompts.hpp>

/// Small models on a device, the same for each.
namespace flows {

namespace cf = contraflow;

inline auto points(const at::Device& device) {
  cf::MlpVelocity model({.width = 16, .depth = 2, .classes = 3, .seed = 1});
  model->to(device);
  return cf::SnapshotPolicy(std::move(model));
}

inline cf::MmditOptions tiny_shape() {
  return {.sample_size = 8,
          .in_channels = 2,
          .out_channels = 2,
          .num_layers = 2,
          .num_attention_heads = 2,
          .attention_head_dim = 8,
          .joint_attention_dim = 16,
          .caption_projection_dim = 16,
          .pooled_projection_dim = 8,
          .pos_embed_max_size = 4,
          .dual_attention_layers = {0}};
}

/// A transformer as that of Stable Diffusion 3.5, with an adapter for each role.
inline auto images(const at::Device& device, bool recompute = false) {
  auto network = std::make_shared<cf::MmditNetwork>(tiny_shape());
  cf::Generator generator = cf::seeded(3);
  cf::initialise(*network, generator);
  cf::Tensor(cf::named_weights(*network).at("pos_embed.pos_embed"))
      .set_data(cf::position_table(tiny_shape()));
  cf::move_weights(*network, {.device = device});
  return cf::LoraPolicy(cf::Mmdit(network, {.recompute = recompute}), {.rank = 2, .alpha = 4});
}

inline cf::TextCondition text_rows(const at::Device& device) {
  cf::Generator generator = cf::seeded(4);
  return {cf::normal({3, 4, 16}, generator).to(device), cf::normal({3, 8}, generator).to(device)};
}

}  // namespace flows
