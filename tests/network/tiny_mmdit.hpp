#pragma once

#include <memory>
#include <string>

#include <contraflow/model/mmdit.hpp>

#include "laws/compare.hpp"

/// A transformer of the published kind that runs in milliseconds.
namespace tiny {

namespace cf = contraflow;
using cf::Tensor;

/// One block of each kind: with a second attention, plain, last.
inline cf::MmditOptions options() {
  return {.sample_size = 8,
          .in_channels = 4,
          .out_channels = 4,
          .num_layers = 3,
          .num_attention_heads = 2,
          .attention_head_dim = 8,
          .joint_attention_dim = 12,
          .caption_projection_dim = 16,
          .pooled_projection_dim = 10,
          .pos_embed_max_size = 8,
          .dual_attention_layers = {0}};
}

/// Random weights, none of them zero or one.
inline std::shared_ptr<cf::MmditNetwork> network(std::uint64_t seed = 1,
                                                 const cf::MmditOptions& shape = options()) {
  auto network = std::make_shared<cf::MmditNetwork>(shape);
  cf::Generator generator = cf::seeded(seed);
  const auto draw = [](const std::string& name, at::IntArrayRef size, cf::Generator& g) {
    if (size.size() > 1) return cf::initial_weight(name, size, g);
    return cf::normal(size, g) * 0.1 + (name.ends_with("bias") ? 0 : 1);
  };
  cf::initialise(*network, generator, draw);
  Tensor(cf::named_weights(*network).at("pos_embed.pos_embed")).set_data(cf::position_table(shape));
  return network;
}
inline cf::Mmdit mmdit(std::uint64_t seed = 1, cf::MmditRunOptions run = {}) {
  return cf::Mmdit(network(seed), run);
}

/// What a network is called with.
struct Input {
  Tensor x_t, t;
  cf::TextCondition condition;
};
inline cf::TextCondition condition(std::int64_t rows, std::uint64_t seed = 3) {
  return {laws::floats({rows, 5, 12}, seed), laws::floats({rows, 10}, seed + 1)};
}
inline Input input(std::int64_t rows = 2, std::uint64_t seed = 2) {
  return {laws::floats({rows, 4, 4, 6}, seed), at::linspace(0.2, 0.9, rows), condition(rows)};
}
inline Tensor velocity(cf::Mmdit model, const Input& in = input()) {
  return model(in.x_t, in.t, in.condition);
}

}  // namespace tiny
