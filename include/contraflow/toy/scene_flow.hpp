#pragma once

/// @file
/// The model of scenes: the transformer of Stable Diffusion 3.5 at tiny size, with a small text
/// encoder that is learned with it.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/model/mmdit.hpp>
#include <contraflow/toy/scenes.hpp>

namespace contraflow::toy {

/// Shape of a SceneFlow; the defaults have 0.46 million weights.
struct SceneFlowOptions {
  std::int64_t layers = 3;      ///< joint blocks, at least 1
  std::int64_t heads = 2;       ///< in each attention, at least 1
  std::int64_t head_size = 32;  ///< features of a head, at least 1
  std::int64_t text_size = 64;  ///< features of a token of the prompt, at least 1

  /// The options of the transformer: one cell a patch, positions in cells.
  MmditOptions transformer() const {
    return {.sample_size = scenes::side,
            .patch_size = 1,
            .in_channels = scenes::channels,
            .out_channels = scenes::channels,
            .num_layers = layers,
            .num_attention_heads = heads,
            .attention_head_dim = head_size,
            .joint_attention_dim = text_size,
            .caption_projection_dim = heads * head_size,
            .pooled_projection_dim = text_size,
            .pos_embed_max_size = scenes::side,
            .dual_attention_layers = {}};
  }
};

/// Tokens of prompts to what the transformer is conditioned on: vectors of tokens and places, two
/// residual convolutions over three tokens each, and their mean.
class SceneTextEncoder : public torch::nn::Module {
 public:
  /// @param size features of a token
  explicit SceneTextEncoder(std::int64_t size)
      : tokens_(place<Embedding>(*this, "tokens", std::int64_t(scenes::vocabulary.size()), size)),
        places_(place<Embedding>(*this, "places", scenes::tokens, size)),
        first_(place<LoraLinear>(*this, "convolution_1", 3 * size, size)),
        second_(place<LoraLinear>(*this, "convolution_2", 3 * size, size)) {}

  /// @param tokens int64 [B, 8]
  TextCondition forward(const Tensor& tokens) const {
    Tensor x = tokens_->forward(tokens) + places_->weight();
    x = x + at::relu(first_->forward(neighbourhoods(x)));
    x = x + at::relu(second_->forward(neighbourhoods(x)));
    return {x, x.mean(1)};
  }

 private:
  /// Each token's features between those of its neighbours, zero beyond the ends.
  static Tensor neighbourhoods(const Tensor& x) {
    const Tensor padded = at::constant_pad_nd(x, {0, 0, 1, 1});
    const std::int64_t count = x.size(1);
    return at::cat({padded.narrow(1, 0, count), x, padded.narrow(1, 2, count)}, 2);
  }

  std::shared_ptr<Embedding> tokens_, places_;
  std::shared_ptr<LoraLinear> first_, second_;
};

/// The network behind SceneFlow.
class SceneNetwork : public torch::nn::Module {
 public:
  using Options = SceneFlowOptions;  ///< its settings

  /// Builds the network without values.
  /// @throws Error if an option is out of range
  explicit SceneNetwork(const SceneFlowOptions& options)
      : options_(checked(options)),
        text_(place<SceneTextEncoder>(*this, "text", options.text_size)),
        transformer_(place<MmditNetwork>(*this, "transformer", options.transformer())) {
    for (const auto& [name, buffer] : named_weights(*transformer_)) {
      if (name == "pos_embed.pos_embed") {
        Tensor(buffer).set_data(position_table(options.transformer()));
      }
    }
  }

  /// The velocity.
  /// @param x_t latents [B, 8, 4, 4]
  /// @param t [B] in [0, 1]
  /// @param tokens int64 [B, 8], see scenes::tokens_of()
  /// @throws Error if a shape does not fit or a token is unknown
  Tensor forward(const Tensor& x_t, const Tensor& t, const Tensor& tokens) const {
    expects_tokens(tokens);
    return transformer_->forward(x_t, t, text_->forward(tokens));
  }

  /// Initial weights: modulations that begin the same for all times and prompts, with the gates of
  /// the branches at 0.3, and a velocity of zero. Gates of zero (Peebles and Xie 2023) would have
  /// the branches begin later than a training of a few minutes has time for.
  static Tensor initial_weight(const std::string& name, at::IntArrayRef shape,
                               Generator& generator) {
    if (name.find("proj_out.") != std::string::npos) return at::zeros(shape);
    if (name.starts_with("text.tokens") || name.starts_with("text.places")) {
      return normal(shape, generator);
    }
    if (name.find("norm1") == std::string::npos && name.find("norm_out") == std::string::npos) {
      return contraflow::initial_weight(name, shape, generator);
    }
    Tensor weight = at::zeros(shape);
    if (name.ends_with("bias") && name.find("norm1") != std::string::npos) open_gates(weight);
    return weight;
  }

  /// [8, 4, 4].
  std::vector<std::int64_t> sample_shape() const {
    return {scenes::channels, scenes::side, scenes::side};
  }
  /// The settings.
  const SceneFlowOptions& options() const { return options_; }

 private:
  static const SceneFlowOptions& checked(const SceneFlowOptions& options) {
    expects(options.layers >= 1, "layers", "at least 1", options.layers);
    expects(options.heads >= 1, "heads", "at least 1", options.heads);
    expects(options.head_size >= 1, "head_size", "at least 1", options.head_size);
    expects(options.text_size >= 1, "text_size", "at least 1", options.text_size);
    return options;
  }

  /// Of six chunks of a modulation the third and the last are gates; one of two chunks has none.
  static void open_gates(Tensor& bias) {
    const std::int64_t width = bias.size(0) / 6;
    if (bias.size(0) % 6 != 0) return;
    for (const std::int64_t gate : {2, 5}) bias.narrow(0, gate * width, width).fill_(0.3);
  }

  static void expects_tokens(const Tensor& tokens) {
    if (tokens.dim() != 2 || tokens.size(1) != scenes::tokens) {
      throw Error("condition", "tokens of prompts, shape [B, " + shown(scenes::tokens) + "]",
                  shape_text(tokens));
    }
    const auto count = std::int64_t(scenes::vocabulary.size());
    expects_below(tokens, count, "condition", "tokens in [0, " + shown(count) + ")");
  }

  SceneFlowOptions options_;
  std::shared_ptr<SceneTextEncoder> text_;
  std::shared_ptr<MmditNetwork> transformer_;
};

/// The velocity of scenes under prompts: what runs here is Mmdit, the code that runs Stable
/// Diffusion 3.5, on 16 tokens of image and 8 of text.
///
/// Copies share their weights, clones have their own.
/// @par Shape
/// x_t [B, 8, 4, 4], t [B] in [0, 1], tokens int64 [B, 8]; result as x_t
class SceneFlow {
 public:
  /// @param network shared: copies of this model share its weights
  explicit SceneFlow(std::shared_ptr<SceneNetwork> network) : network_(std::move(network)) {}
  /// A new network.
  /// @param options its shape
  /// @param seed of its initial weights
  /// @throws Error if an option is out of range
  explicit SceneFlow(const SceneFlowOptions& options = {}, std::uint64_t seed = 0)
      : network_(std::make_shared<SceneNetwork>(options)) {
    Generator generator = seeded(seed);
    initialise(*network_, generator, SceneNetwork::initial_weight);
  }

  /// The velocity.
  Tensor operator()(const Tensor& x_t, const Tensor& t, const Tensor& tokens) {
    return network_->forward(x_t, t, tokens).to(x_t.scalar_type());
  }

  /// [8, 4, 4].
  std::vector<std::int64_t> sample_shape() const { return network_->sample_shape(); }
  /// The network, whose parameters are trained.
  std::shared_ptr<torch::nn::Module> module() const { return network_; }
  /// With weights of its own.
  SceneFlow clone() const {
    auto copy = std::make_shared<SceneNetwork>(network_->options());
    copy_weights(*network_, *copy);
    return SceneFlow(std::move(copy));
  }

 private:
  std::shared_ptr<SceneNetwork> network_;
};

}  // namespace contraflow::toy
