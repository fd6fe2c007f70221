#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include <contraflow/flux/model.hpp>
#include <contraflow/flux/random_flux_folder.hpp>

#include "laws/compare.hpp"
#include "observe/temporary_directory.hpp"

/// Transformers of the published kind that run in milliseconds, and folders of them.
namespace tiny {

namespace cf = contraflow;
using cf::Tensor;

/// Two blocks of each kind, four latent channels.
inline cf::FluxOptions options(bool guidance_embeds = true) {
  return {.in_channels = 16,
          .out_channels = 16,
          .num_layers = 2,
          .num_single_layers = 2,
          .num_attention_heads = 2,
          .attention_head_dim = 8,
          .joint_attention_dim = 12,
          .pooled_projection_dim = 10,
          .guidance_embeds = guidance_embeds,
          .axes_dims_rope = {2, 2, 4}};
}

/// Random weights, none of them zero or one.
inline std::shared_ptr<cf::FluxNetwork> network(const cf::FluxOptions& shape = options(),
                                                std::uint64_t seed = 1) {
  auto network = std::make_shared<cf::FluxNetwork>(shape);
  cf::Generator generator = cf::seeded(seed);
  const auto draw = [](const std::string& name, at::IntArrayRef size, cf::Generator& g) {
    if (size.size() > 1) return cf::initial_weight(name, size, g);
    return cf::normal(size, g) * 0.1 + (name.ends_with("bias") ? 0 : 1);
  };
  cf::initialise(*network, generator, draw);
  return network;
}

/// What a model is called with: latents of 4 x 6, five tokens of text.
struct Input {
  Tensor x_t, t;
  cf::TextCondition condition;
};
inline Input input(std::int64_t rows = 2, std::uint64_t seed = 2) {
  return {laws::floats({rows, 4, 4, 6}, seed),
          at::linspace(0.2, 0.9, rows),
          {laws::floats({rows, 5, 12}, seed + 1), laws::floats({rows, 10}, seed + 2)}};
}
inline Tensor velocity(cf::flux::Model model, const Input& in = input()) {
  return model(in.x_t, in.t, in.condition);
}

/// A folder that is written once and not to be changed.
inline const std::filesystem::path& dev_folder() {
  static const TemporaryDirectory directory;
  static const std::filesystem::path path = [] {
    cf::flux::write_random_folder(directory / "dev", cf::flux::tiny_folder());
    return directory / "dev";
  }();
  return path;
}
inline const std::filesystem::path& schnell_folder() {
  static const TemporaryDirectory directory;
  static const std::filesystem::path path = [] {
    cf::flux::write_random_folder(directory / "schnell",
                                  cf::flux::as_schnell(cf::flux::tiny_folder()));
    return directory / "schnell";
  }();
  return path;
}

}  // namespace tiny
