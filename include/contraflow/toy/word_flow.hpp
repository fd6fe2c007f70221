#pragma once

/// @file
/// The model of words: the transformer of Stable Diffusion 3.5 at tiny size, with an encoder of
/// letters that is learned with it.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/model/mmdit.hpp>
#include <contraflow/toy/scene_flow.hpp>
#include <contraflow/toy/word_drawing.hpp>

namespace contraflow::toy {

/// Shape of a WordFlow; the defaults have 1.7 million weights.
struct WordFlowOptions {
  std::int64_t layers = 3;      ///< joint blocks, at least 1
  std::int64_t heads = 4;       ///< in each attention, at least 1
  std::int64_t head_size = 32;  ///< features of a head, at least 1
  std::int64_t text_size = 64;  ///< features of a letter of the prompt, at least 1
  std::int64_t patch_size = 8;  ///< side of a patch, a divisor of 16

  /// The options of the transformer: positions in patches.
  MmditOptions transformer() const {
    return {.sample_size = words::width,
            .patch_size = patch_size,
            .in_channels = 1,
            .out_channels = 1,
            .num_layers = layers,
            .num_attention_heads = heads,
            .attention_head_dim = head_size,
            .joint_attention_dim = text_size,
            .caption_projection_dim = heads * head_size,
            .pooled_projection_dim = text_size,
            .pos_embed_max_size = words::width / patch_size,
            .dual_attention_layers = {}};
  }
};

/// Tokens of words to what the transformer is conditioned on: vectors of letters and places, and
/// a projection of all five.
class WordEncoder : public torch::nn::Module {
 public:
  /// @param size features of a letter
  explicit WordEncoder(std::int64_t size)
      : tokens_(place<Embedding>(*this, "tokens", words::vocabulary, size)),
        places_(place<Embedding>(*this, "places", words::most_letters, size)),
        pooled_(place<LoraLinear>(*this, "pooled", words::most_letters * size, size)) {}

  /// @param tokens int64 [B, 5]
  TextCondition forward(const Tensor& tokens) const {
    const Tensor letters = tokens_->forward(tokens);
    return {letters + places_->weight(), pooled_->forward(letters.flatten(1))};
  }

 private:
  std::shared_ptr<Embedding> tokens_, places_;
  std::shared_ptr<LoraLinear> pooled_;
};

/// The network behind WordFlow.
class WordNetwork : public torch::nn::Module {
 public:
  using Options = WordFlowOptions;  ///< its settings

  /// Builds the network without values.
  /// @throws Error if an option is out of range
  explicit WordNetwork(const WordFlowOptions& options)
      : options_(checked(options)),
        text_(place<WordEncoder>(*this, "text", options.text_size)),
        transformer_(place<MmditNetwork>(*this, "transformer", options.transformer())) {
    for (const auto& [name, buffer] : named_weights(*transformer_)) {
      if (name == "pos_embed.pos_embed") {
        Tensor(buffer).set_data(position_table(options.transformer()));
      }
    }
  }

  /// The velocity.
  /// @param x_t images [B, 1, 16, 48]
  /// @param t [B] in [0, 1]
  /// @param tokens int64 [B, 5], see words::tokens_of()
  /// @throws Error if a shape does not fit or a token is unknown
  Tensor forward(const Tensor& x_t, const Tensor& t, const Tensor& tokens) const {
    if (tokens.dim() != 2 || tokens.size(1) != words::most_letters) {
      throw Error("condition", "tokens of words, shape [B, 5]", shape_text(tokens));
    }
    expects_below(tokens, words::vocabulary, "condition",
                  "tokens in [0, " + shown(words::vocabulary) + ")");
    return transformer_->forward(x_t, t, text_->forward(tokens));
  }

  /// [1, 16, 48].
  std::vector<std::int64_t> sample_shape() const { return {1, words::height, words::width}; }
  /// The settings.
  const WordFlowOptions& options() const { return options_; }

 private:
  static const WordFlowOptions& checked(const WordFlowOptions& options) {
    expects(options.layers >= 1, "layers", "at least 1", options.layers);
    expects(options.heads >= 1, "heads", "at least 1", options.heads);
    expects(options.head_size >= 1, "head_size", "at least 1", options.head_size);
    expects(options.text_size >= 1, "text_size", "at least 1", options.text_size);
    const std::int64_t patch = options.patch_size;
    expects(patch >= 1 && words::height % patch == 0, "patch_size", "a divisor of 16", patch);
    return options;
  }

  WordFlowOptions options_;
  std::shared_ptr<WordEncoder> text_;
  std::shared_ptr<MmditNetwork> transformer_;
};

/// The velocity of images of words under what they are to say: what runs here is Mmdit, the code
/// that runs Stable Diffusion 3.5, on 12 tokens of image and 5 of text.
///
/// Copies share their weights, clones have their own.
/// @par Shape
/// x_t [B, 1, 16, 48], t [B] in [0, 1], tokens int64 [B, 5]; result as x_t
class WordFlow {
 public:
  /// @param network shared: copies of this model share its weights
  explicit WordFlow(std::shared_ptr<WordNetwork> network) : network_(std::move(network)) {}
  /// A new network, which begins as that of SceneFlow.
  /// @param options its shape
  /// @param seed of its initial weights
  /// @throws Error if an option is out of range
  explicit WordFlow(const WordFlowOptions& options = {}, std::uint64_t seed = 0)
      : network_(std::make_shared<WordNetwork>(options)) {
    Generator generator = seeded(seed);
    initialise(*network_, generator, SceneNetwork::initial_weight);
  }

  /// The velocity.
  Tensor operator()(const Tensor& x_t, const Tensor& t, const Tensor& tokens) {
    return network_->forward(x_t, t, tokens).to(x_t.scalar_type());
  }

  /// [1, 16, 48].
  std::vector<std::int64_t> sample_shape() const { return network_->sample_shape(); }
  /// The network, whose parameters are trained.
  std::shared_ptr<torch::nn::Module> module() const { return network_; }
  /// With weights of its own.
  WordFlow clone() const {
    auto copy = std::make_shared<WordNetwork>(network_->options());
    copy_weights(*network_, *copy);
    return WordFlow(std::move(copy));
  }

 private:
  std::shared_ptr<WordNetwork> network_;
};

}  // namespace contraflow::toy
