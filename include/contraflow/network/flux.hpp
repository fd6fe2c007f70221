#pragma once

/// @file
/// The transformer of FLUX.1: blocks of two streams, then blocks of one, with rotary positions.

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <contraflow/network/joint_attention.hpp>
#include <contraflow/network/layers.hpp>
#include <contraflow/network/modulation.hpp>
#include <contraflow/network/recompute.hpp>
#include <contraflow/network/rotary.hpp>
#include <contraflow/network/text_condition.hpp>
#include <contraflow/network/weights.hpp>

namespace contraflow {

/// Shape of a FluxNetwork; the defaults are those of FLUX.1 [dev]. Names are those of the published
/// config.json.
struct FluxOptions {
  std::int64_t in_channels = 64;             ///< of a token
  std::int64_t out_channels = 64;            ///< of a token's velocity
  std::int64_t num_layers = 19;              ///< blocks of two streams, image and text
  std::int64_t num_single_layers = 38;       ///< blocks of one sequence
  std::int64_t num_attention_heads = 24;     ///< in each attention
  std::int64_t attention_head_dim = 128;     ///< channels a head
  std::int64_t joint_attention_dim = 4096;   ///< of the prompt's sequence
  std::int64_t pooled_projection_dim = 768;  ///< of the pooled prompt
  bool guidance_embeds = true;               ///< whether it is told a guidance scale; not [schnell]
  /// Channels of a head that each number of a position turns, even; together attention_head_dim.
  std::array<std::int64_t, 3> axes_dims_rope = {16, 56, 56};

  /// Features of a token within.
  std::int64_t width() const { return num_attention_heads * attention_head_dim; }
};

/// What a FluxNetwork does beside computing: for training.
struct FluxRunOptions {
  bool recompute = false;  ///< keep only each block's input and compute the block again
};

namespace detail {

/// Root-mean-square normalisation of heads as torch's RMSNorm has it: multiplied by the weight
/// before the one rounding to half precision, where RmsNorm rounds first.
class HeadNorm : public torch::nn::Module {
 public:
  explicit HeadNorm(std::int64_t size) { weight_ = register_parameter("weight", unfilled({size})); }
  Tensor forward(const Tensor& x) const {
    const Tensor full = wide(x);
    const Tensor scale = full.square().mean(-1, /*keepdim=*/true).add_(1e-6).rsqrt_();
    return (full * scale * wide(weight_)).to(x.scalar_type());
  }

 private:
  Tensor weight_;
};

/// Projections of tokens to queries, keys and values that are normalised and turned.
class FluxProjections {
 public:
  struct Names {
    const char *query, *key, *value, *query_norm, *key_norm;
  };
  FluxProjections(torch::nn::Module& attention, const Names& names, const FluxOptions& options)
      : heads_(options.num_attention_heads),
        query_(place<LoraLinear>(attention, names.query, options.width(), options.width())),
        key_(place<LoraLinear>(attention, names.key, options.width(), options.width())),
        value_(place<LoraLinear>(attention, names.value, options.width(), options.width())),
        query_norm_(place<HeadNorm>(attention, names.query_norm, options.attention_head_dim)),
        key_norm_(place<HeadNorm>(attention, names.key_norm, options.attention_head_dim)) {}

  AttentionTokens operator()(const Tensor& x, const RotaryTable& table) const {
    const auto turned = [&](const LoraLinear& layer, const HeadNorm& norm) {
      const Tensor heads = layer.forward(x).unflatten(-1, {heads_, -1});
      return rotated(norm.forward(heads), table).flatten(2);
    };
    return {turned(*query_, *query_norm_), turned(*key_, *key_norm_), value_->forward(x), {}, {}};
  }

 private:
  std::int64_t heads_;
  std::shared_ptr<LoraLinear> query_, key_, value_;
  std::shared_ptr<HeadNorm> query_norm_, key_norm_;
};

/// Attention of image and text over both, the text first.
class FluxJointAttention : public torch::nn::Module {
 public:
  explicit FluxJointAttention(const FluxOptions& options)
      : heads_(options.num_attention_heads),
        image_(*this, {"to_q", "to_k", "to_v", "norm_q", "norm_k"}, options),
        text_(*this, {"add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k"},
              options),
        image_out_(place<LoraLinear>(*this, "to_out.0", options.width(), options.width())),
        text_out_(place<LoraLinear>(*this, "to_add_out", options.width(), options.width())) {}

  /// Image and text.
  std::pair<Tensor, Tensor> forward(const Tensor& image, const Tensor& text,
                                    const RotaryTable& table) const {
    const std::int64_t length = text.size(1);
    const std::vector<Tensor> found = attended(
        {text_(text, table.tokens(0, length)), image_(image, table.tokens(length, image.size(1)))},
        heads_);
    return {image_out_->forward(found[1]), text_out_->forward(found[0])};
  }

 private:
  std::int64_t heads_;
  FluxProjections image_, text_;
  std::shared_ptr<LoraLinear> image_out_, text_out_;
};

/// Attention of one sequence over itself; what follows it is the block's.
class FluxAttention : public torch::nn::Module {
 public:
  explicit FluxAttention(const FluxOptions& options)
      : heads_(options.num_attention_heads),
        tokens_(*this, {"to_q", "to_k", "to_v", "norm_q", "norm_k"}, options) {}
  Tensor forward(const Tensor& x, const RotaryTable& table) const {
    return attended({tokens_(x, table)}, heads_)[0];
  }

 private:
  std::int64_t heads_;
  FluxProjections tokens_;
};

/// Within what float16 holds, as published; other dtypes hold more than comes.
inline Tensor within_half(const Tensor& x) {
  return x.scalar_type() == at::kHalf ? x.clamp(-65504, 65504) : x;
}

}  // namespace detail

/// A block of two streams: joint attention, and a feed-forward layer for each stream.
class FluxBlock : public torch::nn::Module {
 public:
  /// @param options of the network
  explicit FluxBlock(const FluxOptions& options)
      : image_modulation_(place<detail::Modulation>(*this, "norm1", options.width(), 6)),
        text_modulation_(place<detail::Modulation>(*this, "norm1_context", options.width(), 6)),
        joint_(place<detail::FluxJointAttention>(*this, "attn", options)),
        image_feed_forward_(place<FeedForward>(*this, "ff", options.width())),
        text_feed_forward_(place<FeedForward>(*this, "ff_context", options.width())) {}

  /// Image and text tokens behind the block.
  /// @param image [B, N, D]
  /// @param text [B, L, D]
  /// @param embedding SiLU of the embedding of time, guidance and pooled prompt, [B, D]
  /// @param table of L + N tokens, those of the text first
  std::pair<Tensor, Tensor> forward(const Tensor& image, const Tensor& text,
                                    const Tensor& embedding, const RotaryTable& table) const {
    const auto m = image_modulation_->forward(embedding);
    const auto c = text_modulation_->forward(embedding);
    const auto [image_change, text_change] =
        joint_->forward(detail::modulated(detail::normalised_layer(image), m[0], m[1]),
                        detail::modulated(detail::normalised_layer(text), c[0], c[1]), table);
    return {fed_forward(detail::gated(image, m[2], image_change), *image_feed_forward_, m),
            detail::within_half(
                fed_forward(detail::gated(text, c[2], text_change), *text_feed_forward_, c))};
  }

 private:
  static Tensor fed_forward(const Tensor& x, const FeedForward& layer,
                            const std::vector<Tensor>& m) {
    const Tensor modulated = detail::modulated(detail::normalised_layer(x), m[3], m[4]);
    return detail::gated(x, m[5], layer.forward(modulated));
  }

  std::shared_ptr<detail::Modulation> image_modulation_, text_modulation_;
  std::shared_ptr<detail::FluxJointAttention> joint_;
  std::shared_ptr<FeedForward> image_feed_forward_, text_feed_forward_;
};

/// A block of one sequence, text and image: attention and a feed-forward layer side by side, whose
/// results one layer takes together.
class FluxSingleBlock : public torch::nn::Module {
 public:
  /// @param options of the network
  explicit FluxSingleBlock(const FluxOptions& options)
      : modulation_(place<detail::Modulation>(*this, "norm", options.width(), 3)),
        attention_(place<detail::FluxAttention>(*this, "attn", options)),
        widen_(place<LoraLinear>(*this, "proj_mlp", options.width(), 4 * options.width())),
        out_(place<LoraLinear>(*this, "proj_out", 5 * options.width(), options.width())) {}

  /// The sequence behind the block.
  /// @param sequence [B, L + N, D], the text first
  /// @param embedding SiLU of the embedding of time, guidance and pooled prompt, [B, D]
  /// @param table of L + N tokens
  Tensor forward(const Tensor& sequence, const Tensor& embedding, const RotaryTable& table) const {
    const auto m = modulation_->forward(embedding);
    const Tensor x = detail::modulated(detail::normalised_layer(sequence), m[0], m[1]);
    const Tensor found = attention_->forward(x, table);
    const Tensor change = out_->forward(at::cat({found, gelu_tanh(widen_->forward(x))}, 2));
    return detail::within_half(detail::gated(sequence, m[2], change));
  }

 private:
  std::shared_ptr<detail::Modulation> modulation_;
  std::shared_ptr<detail::FluxAttention> attention_;
  std::shared_ptr<LoraLinear> widen_, out_;
};

/// What a FluxNetwork is told of its samples beside their tokens and prompts.
/// @par Shape
/// t and guidance float32 [B]; positions [N, 3]
struct FluxContext {
  Tensor t;          ///< in [0, 1]
  Tensor guidance;   ///< scale that the network was distilled with, 3.5 by default; not read, and
                     ///< may be undefined, where there is no embedding of it
  Tensor positions;  ///< of the image's tokens: image, row, column; the text stands at zero
};

/// The transformer of FLUX.1 (Black Forest Labs 2024). Its weights have the names that diffusers
/// publishes.
class FluxNetwork : public torch::nn::Module {
 public:
  /// Builds the network without values; see load_weights() and initialise().
  /// @throws Error if an option is out of range
  explicit FluxNetwork(const FluxOptions& options) : options_(checked(options)) {
    const std::int64_t width = options_.width();
    time_ = place<EmbeddingMlp>(*this, "time_text_embed.timestep_embedder", features, width);
    if (options_.guidance_embeds) {
      guidance_ = place<EmbeddingMlp>(*this, "time_text_embed.guidance_embedder", features, width);
    }
    pooled_ = place<EmbeddingMlp>(*this, "time_text_embed.text_embedder",
                                  options_.pooled_projection_dim, width);
    context_ = place<LoraLinear>(*this, "context_embedder", options_.joint_attention_dim, width);
    tokens_ = place<LoraLinear>(*this, "x_embedder", options_.in_channels, width);
    for (std::int64_t i = 0; i < options_.num_layers; ++i) {
      blocks_.push_back(
          place<FluxBlock>(*this, "transformer_blocks." + std::to_string(i), options_));
    }
    for (std::int64_t i = 0; i < options_.num_single_layers; ++i) {
      single_blocks_.push_back(place<FluxSingleBlock>(
          *this, "single_transformer_blocks." + std::to_string(i), options_));
    }
    last_modulation_ = place<detail::Modulation>(*this, "norm_out", width, 2);
    out_ = place<LoraLinear>(*this, "proj_out", width, options_.out_channels);
  }

  /// The velocity of each token of the image.
  /// @param tokens [B, N, in_channels]
  /// @param prompts of B rows
  /// @param context time, guidance and positions
  /// @param run what is done for training
  /// @return [B, N, out_channels], in the dtype of the weights
  /// @throws Error if a shape does not fit
  Tensor forward(const Tensor& tokens, const TextCondition& prompts, const FluxContext& context,
                 const FluxRunOptions& run = {}) const {
    expects_shapes(tokens, prompts, context);
    const at::Device device = out_->weight().device();
    const at::ScalarType dtype = out_->dtype();
    const Tensor embedding = silu(embedded(context, on_device(prompts.pooled, device, dtype)));
    Tensor image = tokens_->forward(tokens.to(device, dtype));
    Tensor text = context_->forward(on_device(prompts.sequence, device, dtype));
    const std::int64_t length = text.size(1);
    const RotaryTable table = rotations(length, on_device(context.positions, device));
    for (const auto& block : blocks_) {
      std::tie(image, text) = through(*block, image, text, embedding, table, run);
    }
    Tensor sequence = at::cat({text, image}, 1);
    for (const auto& block : single_blocks_) {
      sequence = through(*block, sequence, embedding, table, run);
    }
    image = sequence.narrow(1, length, image.size(1));
    // Scale before shift, the reverse of all others.
    const auto m = last_modulation_->forward(embedding);
    return out_->forward(detail::modulated(detail::normalised_layer(image), m[1], m[0]));
  }

  /// Embedding of time, guidance and pooled prompt, [B, width].
  Tensor embedded(const FluxContext& context, const Tensor& pooled) const {
    Tensor sum = time_->forward(features_of(context.t, pooled));
    if (guidance_) sum = sum + guidance_->forward(features_of(context.guidance, pooled));
    return sum + pooled_->forward(pooled);
  }

  /// Rotations of text and image.
  /// @param text number of tokens, which stand at zero
  /// @param positions of the image, [N, 3]
  RotaryTable rotations(std::int64_t text, const Tensor& positions) const {
    const Tensor all =
        at::cat({at::zeros({text, positions.size(1)}, positions.options()), positions});
    return rotary_table(all, options_.axes_dims_rope);
  }

  /// Lets the linear layers of all blocks keep their weights in 8 bits, see keep_in_int8(); those
  /// before and behind the blocks are small, decide most, and stay.
  void keep_blocks_in_int8() {
    for (const auto& block : blocks_) keep_in_int8(*block);
    for (const auto& block : single_blocks_) keep_in_int8(*block);
  }

  /// The settings.
  const FluxOptions& options() const { return options_; }
  /// The blocks of two streams, in their order.
  const std::vector<std::shared_ptr<FluxBlock>>& blocks() const { return blocks_; }
  /// The blocks of one sequence, in their order.
  const std::vector<std::shared_ptr<FluxSingleBlock>>& single_blocks() const {
    return single_blocks_;
  }

 private:
  static constexpr std::int64_t features = 256;

  static const FluxOptions& checked(const FluxOptions& options) {
    expects_at_least_one(options.in_channels, "in_channels");
    expects_at_least_one(options.out_channels, "out_channels");
    expects_at_least_one(options.num_layers, "num_layers");
    expects_at_least_one(options.num_single_layers, "num_single_layers");
    expects_at_least_one(options.num_attention_heads, "num_attention_heads");
    expects_at_least_one(options.attention_head_dim, "attention_head_dim");
    expects_at_least_one(options.joint_attention_dim, "joint_attention_dim");
    expects_at_least_one(options.pooled_projection_dim, "pooled_projection_dim");
    std::int64_t turned = 0;
    for (const std::int64_t channels : options.axes_dims_rope) {
      expects(channels >= 2 && channels % 2 == 0, "axes_dims_rope", "even numbers", channels);
      turned += channels;
    }
    expects(turned == options.attention_head_dim, "axes_dims_rope",
            "attention_head_dim channels in all", turned);
    return options;
  }

  void expects_shapes(const Tensor& tokens, const TextCondition& prompts,
                      const FluxContext& context) const {
    expects_last(tokens, 3, options_.in_channels, "tokens");
    expects_condition_of(prompts, tokens);
    expects_last(prompts.sequence, 3, options_.joint_attention_dim, "condition.sequence");
    expects_last(prompts.pooled, 2, options_.pooled_projection_dim, "condition.pooled");
    expects_per_sample(context.t, tokens, "t");
    if (guidance_) expects_per_sample(context.guidance, tokens, "guidance");
    const Tensor& positions = context.positions;
    if (!positions.defined() || positions.dim() != 2 || positions.size(0) != tokens.size(1)) {
      throw Error("positions", "shape [" + shown(tokens.size(1)) + ", 3]", shape_text(positions));
    }
  }
  static void expects_last(const Tensor& x, std::int64_t rank, std::int64_t size,
                           const char* name) {
    if (x.defined() && x.dim() == rank && x.size(rank - 1) == size) return;
    throw Error(name, std::string("shape [B, ") + (rank == 3 ? "N, " : "") + shown(size) + "]",
                shape_text(x));
  }

  /// Rounded to the dtype of the tokens before and behind the factor, as published: in bfloat16 a
  /// guidance of 3.5 acts as 3.504.
  static Tensor features_of(const Tensor& value, const Tensor& like) {
    const Tensor scaled = value.to(like.device(), like.scalar_type()) * 1000;
    return sinusoid(scaled, features).to(like.scalar_type());
  }

  static std::pair<Tensor, Tensor> through(const FluxBlock& block, const Tensor& image,
                                           const Tensor& text, const Tensor& embedding,
                                           const RotaryTable& table, const FluxRunOptions& run) {
    if (!run.recompute) return block.forward(image, text, embedding, table);
    const auto forward = [&block](const std::vector<Tensor>& x) -> std::vector<Tensor> {
      auto [new_image, new_text] = block.forward(x[0], x[1], x[2], {x[3], x[4]});
      return {new_image, new_text};
    };
    const auto out = recomputed(block, forward, {image, text, embedding, table.cos, table.sin});
    return {out[0], out[1]};
  }
  static Tensor through(const FluxSingleBlock& block, const Tensor& sequence,
                        const Tensor& embedding, const RotaryTable& table,
                        const FluxRunOptions& run) {
    if (!run.recompute) return block.forward(sequence, embedding, table);
    const auto forward = [&block](const std::vector<Tensor>& x) -> std::vector<Tensor> {
      return {block.forward(x[0], x[1], {x[2], x[3]})};
    };
    return recomputed(block, forward, {sequence, embedding, table.cos, table.sin})[0];
  }

  FluxOptions options_;
  std::shared_ptr<EmbeddingMlp> time_, guidance_, pooled_;
  std::shared_ptr<LoraLinear> context_, tokens_;
  std::vector<std::shared_ptr<FluxBlock>> blocks_;
  std::vector<std::shared_ptr<FluxSingleBlock>> single_blocks_;
  std::shared_ptr<detail::Modulation> last_modulation_;
  std::shared_ptr<LoraLinear> out_;
};

}  // namespace contraflow
