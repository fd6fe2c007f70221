#pragma once

/// @file
/// The transformer of Stable Diffusion 3 and 3.5: joint attention over image and text.

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/network/joint_attention.hpp>
#include <contraflow/network/layers.hpp>
#include <contraflow/network/modulation.hpp>
#include <contraflow/network/recompute.hpp>
#include <contraflow/network/text_condition.hpp>
#include <contraflow/network/weights.hpp>

namespace contraflow {

/// Shape of an Mmdit; the defaults are Stable Diffusion 3.5 Medium's. Names are those of the
/// published config.json.
struct MmditOptions {
  std::int64_t sample_size = 128;              ///< latent size the position table is scaled for
  std::int64_t patch_size = 2;                 ///< side of a patch, in latent pixels
  std::int64_t in_channels = 16;               ///< of the latent
  std::int64_t out_channels = 16;              ///< of the velocity
  std::int64_t num_layers = 24;                ///< joint blocks
  std::int64_t num_attention_heads = 24;       ///< in each attention
  std::int64_t attention_head_dim = 64;        ///< channels a head
  std::int64_t joint_attention_dim = 4096;     ///< of the prompt's sequence
  std::int64_t caption_projection_dim = 1536;  ///< has to be heads times channels a head
  std::int64_t pooled_projection_dim = 2048;   ///< of the pooled prompt
  std::int64_t pos_embed_max_size = 384;       ///< side of the position table, in patches
  /// Blocks with a second attention, over the image alone (the X of MM-DiT-X).
  std::vector<std::int64_t> dual_attention_layers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  bool qk_norm = true;       ///< whether queries and keys are RMS-normalised
  double time_scale = 1000;  ///< the network's time is the library's times this

  /// Channels of a token.
  std::int64_t width() const { return num_attention_heads * attention_head_dim; }
};

/// Stable Diffusion 3 Medium's: nothing is normalised before attention, and no block has a second.
inline MmditOptions sd3_medium() {
  return {.pos_embed_max_size = 192, .dual_attention_layers = {}, .qk_norm = false};
}

/// Stable Diffusion 3.5 Large's: wider and deeper, and no block has a second attention.
inline MmditOptions sd35_large() {
  return {.num_layers = 38,
          .num_attention_heads = 38,
          .caption_projection_dim = 2432,
          .pos_embed_max_size = 192,
          .dual_attention_layers = {}};
}

/// What an Mmdit does beside computing: for training.
struct MmditRunOptions {
  bool recompute = false;  ///< keep only each block's input and compute the block again
};

namespace detail {

/// Projections of one stream of tokens to queries, keys and values.
class Projections {
 public:
  struct Names {
    const char *query, *key, *value, *query_norm, *key_norm;
  };
  Projections(torch::nn::Module& attention, const Names& names, const MmditOptions& options)
      : query_(place<LoraLinear>(attention, names.query, options.width(), options.width())),
        key_(place<LoraLinear>(attention, names.key, options.width(), options.width())),
        value_(place<LoraLinear>(attention, names.value, options.width(), options.width())) {
    if (!options.qk_norm) return;
    query_norm_ = place<RmsNorm>(attention, names.query_norm, options.attention_head_dim);
    key_norm_ = place<RmsNorm>(attention, names.key_norm, options.attention_head_dim);
  }
  AttentionTokens operator()(const Tensor& x) const {
    return {query_->forward(x), key_->forward(x), value_->forward(x), weight_of(query_norm_),
            weight_of(key_norm_)};
  }

 private:
  static Tensor weight_of(const std::shared_ptr<RmsNorm>& norm) {
    return norm ? norm->weight() : Tensor();
  }

  std::shared_ptr<LoraLinear> query_, key_, value_;
  std::shared_ptr<RmsNorm> query_norm_, key_norm_;
};

/// Attention of the image over itself.
class ImageAttention : public torch::nn::Module {
 public:
  explicit ImageAttention(const MmditOptions& options)
      : heads_(options.num_attention_heads),
        image_(*this, {"to_q", "to_k", "to_v", "norm_q", "norm_k"}, options),
        out_(place<LoraLinear>(*this, "to_out.0", options.width(), options.width())) {}
  Tensor forward(const Tensor& image) const {
    return out_->forward(attended({image_(image)}, heads_)[0]);
  }

 private:
  std::int64_t heads_;
  Projections image_;
  std::shared_ptr<LoraLinear> out_;
};

/// Attention of image and text over both; the text's result is not needed after the last block.
class JointAttention : public torch::nn::Module {
 public:
  JointAttention(const MmditOptions& options, bool is_last)
      : heads_(options.num_attention_heads),
        image_(*this, {"to_q", "to_k", "to_v", "norm_q", "norm_k"}, options),
        text_(*this, {"add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k"},
              options),
        image_out_(place<LoraLinear>(*this, "to_out.0", options.width(), options.width())) {
    if (is_last) return;
    text_out_ = place<LoraLinear>(*this, "to_add_out", options.width(), options.width());
  }
  /// Image and text; the text is undefined after the last block.
  std::pair<Tensor, Tensor> forward(const Tensor& image, const Tensor& text) const {
    const std::vector<Tensor> found = attended({image_(image), text_(text)}, heads_);
    const Tensor new_image = image_out_->forward(found[0]);
    if (!text_out_) return {new_image, {}};
    return {new_image, text_out_->forward(found[1])};
  }

 private:
  std::int64_t heads_;
  Projections image_, text_;
  std::shared_ptr<LoraLinear> image_out_, text_out_;
};

}  // namespace detail

/// One block of an Mmdit: joint attention, where asked for a second attention over the image, and a
/// feed-forward layer for each stream (Esser and others 2024, figure 2).
class MmditBlock : public torch::nn::Module {
 public:
  /// @param options of the network
  /// @param is_dual whether it has a second attention over the image
  /// @param is_last whether the text ends here
  MmditBlock(const MmditOptions& options, bool is_dual, bool is_last)
      : image_modulation_(
            place<detail::Modulation>(*this, "norm1", options.width(), is_dual ? 9 : 6)),
        text_modulation_(
            place<detail::Modulation>(*this, "norm1_context", options.width(), is_last ? 2 : 6)),
        joint_(place<detail::JointAttention>(*this, "attn", options, is_last)),
        image_feed_forward_(place<FeedForward>(*this, "ff", options.width())) {
    if (is_dual) second_ = place<detail::ImageAttention>(*this, "attn2", options);
    if (!is_last) text_feed_forward_ = place<FeedForward>(*this, "ff_context", options.width());
  }

  /// Image and text tokens behind the block; the text is undefined behind the last.
  /// @param image [B, N, D]
  /// @param text [B, L, D]
  /// @param embedding SiLU of the embedding of time and pooled prompt, [B, D]
  std::pair<Tensor, Tensor> forward(const Tensor& image, const Tensor& text,
                                    const Tensor& embedding) const {
    const auto m = image_modulation_->forward(embedding);
    const auto c = text_modulation_->forward(embedding);
    const detail::Normalised normalised = detail::normalised_layer(image);
    const detail::Normalised normalised_text = detail::normalised_layer(text);
    // In the last block the two chunks are scale and shift, the reverse of all others.
    const bool is_last = !text_feed_forward_;
    auto [image_change, text_change] =
        joint_->forward(detail::modulated(normalised, m[0], m[1]),
                        detail::modulated(normalised_text, c[is_last ? 1 : 0], c[is_last ? 0 : 1]));
    Tensor x = detail::gated(image, m[2], image_change);
    if (second_) {
      x = detail::gated(x, m[8], second_->forward(detail::modulated(normalised, m[6], m[7])));
    }
    x = fed_forward(x, *image_feed_forward_, m);
    if (is_last) return {x, {}};
    return {x, fed_forward(detail::gated(text, c[2], text_change), *text_feed_forward_, c)};
  }

 private:
  static Tensor fed_forward(const Tensor& x, const FeedForward& layer,
                            const std::vector<Tensor>& m) {
    const Tensor modulated = detail::modulated(detail::normalised_layer(x), m[3], m[4]);
    return detail::gated(x, m[5], layer.forward(modulated));
  }

  std::shared_ptr<detail::Modulation> image_modulation_, text_modulation_;
  std::shared_ptr<detail::JointAttention> joint_;
  std::shared_ptr<detail::ImageAttention> second_;
  std::shared_ptr<FeedForward> image_feed_forward_, text_feed_forward_;
};

/// The table of positions of an Mmdit.
/// @return float32 [1, pos_embed_max_size^2, width]
inline Tensor position_table(const MmditOptions& options) {
  const double base = double(options.sample_size / options.patch_size);
  return position_grid(options.pos_embed_max_size, double(options.pos_embed_max_size) / base,
                       options.width());
}

/// The network behind Mmdit. Its weights have the names of the published state dict.
class MmditNetwork : public torch::nn::Module {
 public:
  /// Builds the network without values; see load_weights() and initialise().
  /// @throws Error if an option is out of range
  explicit MmditNetwork(MmditOptions options) : options_(checked(std::move(options))) {
    const std::int64_t width = options_.width();
    patches_ = place<Conv2d>(*this, "pos_embed.proj", options_.in_channels, width,
                             options_.patch_size, options_.patch_size);
    detail::branch(*this, "pos_embed")
        .register_buffer(
            "pos_embed",
            unfilled({1, options_.pos_embed_max_size * options_.pos_embed_max_size, width}));
    time_ = place<EmbeddingMlp>(*this, "time_text_embed.timestep_embedder", time_features, width);
    pooled_ = place<EmbeddingMlp>(*this, "time_text_embed.text_embedder",
                                  options_.pooled_projection_dim, width);
    context_ = place<LoraLinear>(*this, "context_embedder", options_.joint_attention_dim, width);
    const auto& dual = options_.dual_attention_layers;
    for (std::int64_t i = 0; i < options_.num_layers; ++i) {
      const bool is_dual = std::find(dual.begin(), dual.end(), i) != dual.end();
      blocks_.push_back(place<MmditBlock>(*this, "transformer_blocks." + std::to_string(i),
                                          options_, is_dual, i + 1 == options_.num_layers));
    }
    last_modulation_ = place<detail::Modulation>(*this, "norm_out", width, 2);
    out_ = place<LoraLinear>(*this, "proj_out", width,
                             options_.patch_size * options_.patch_size * options_.out_channels);
  }

  /// The velocity.
  /// @param x_t latents [B, C, H, W]; H and W are multiples of the patch size
  /// @param t float32 [B] in [0, 1]
  /// @param condition of B rows
  /// @param run what is done for training
  /// @return [B, out_channels, H, W], in the dtype of the weights
  /// @throws Error if a shape does not fit
  Tensor forward(const Tensor& x_t, const Tensor& t, const TextCondition& condition,
                 const MmditRunOptions& run = {}) const {
    expects_shapes(x_t, condition);
    const at::Device device = out_->weight().device();
    const at::ScalarType dtype = out_->dtype();
    const std::int64_t rows = x_t.size(2) / options_.patch_size;
    const std::int64_t columns = x_t.size(3) / options_.patch_size;
    const Tensor embedding = silu(embedded(t, on_device(condition.pooled, device, dtype)));
    Tensor image = patches_->forward(x_t.to(device, dtype)).flatten(2).transpose(1, 2);
    image = (image + positions(rows, columns).to(dtype)).contiguous();
    Tensor text = context_->forward(on_device(condition.sequence, device, dtype));
    for (const auto& block : blocks_) {
      std::tie(image, text) = through(*block, image, text, embedding, run);
    }
    const auto m = last_modulation_->forward(embedding);
    image = out_->forward(detail::modulated(detail::normalised_layer(image), m[1], m[0]));
    return assembled(image, rows, columns);
  }

  /// Embedding of time and pooled prompt, [B, width].
  Tensor embedded(const Tensor& t, const Tensor& pooled) const {
    const Tensor features = sinusoid(t * options_.time_scale, time_features);
    return time_->forward(features.to(pooled.scalar_type())) + pooled_->forward(pooled);
  }

  /// The middle of the position table, [1, rows columns, width].
  Tensor positions(std::int64_t rows, std::int64_t columns) const {
    const Tensor table = named_children()["pos_embed"]->named_buffers()["pos_embed"];
    const std::int64_t side = options_.pos_embed_max_size;
    return table.unflatten(1, {side, side})
        .narrow(1, (side - rows) / 2, rows)
        .narrow(2, (side - columns) / 2, columns)
        .flatten(1, 2);
  }

  /// Lets the linear layers of all blocks keep their weights in 8 bits, see keep_in_int8(); those
  /// before and behind the blocks are small, decide most, and stay.
  void keep_blocks_in_int8() {
    for (const auto& block : blocks_) keep_in_int8(*block);
  }

  /// The settings.
  const MmditOptions& options() const { return options_; }
  /// The joint blocks, in their order.
  const std::vector<std::shared_ptr<MmditBlock>>& blocks() const { return blocks_; }

 private:
  static constexpr std::int64_t time_features = 256;

  static MmditOptions checked(MmditOptions options) {
    expects_at_least_one(options.patch_size, "patch_size");
    expects_at_least_one(options.in_channels, "in_channels");
    expects_at_least_one(options.out_channels, "out_channels");
    expects_at_least_one(options.num_layers, "num_layers");
    expects_at_least_one(options.num_attention_heads, "num_attention_heads");
    expects_at_least_one(options.attention_head_dim, "attention_head_dim");
    expects_at_least_one(options.joint_attention_dim, "joint_attention_dim");
    expects_at_least_one(options.pooled_projection_dim, "pooled_projection_dim");
    expects_at_least_one(options.pos_embed_max_size, "pos_embed_max_size");
    expects(options.sample_size >= options.patch_size, "sample_size", "at least the patch size",
            options.sample_size);
    expects(options.width() % 4 == 0, "attention_head_dim", "heads times channels a multiple of 4",
            options.width());
    expects(options.caption_projection_dim == options.width(), "caption_projection_dim",
            "num_attention_heads times attention_head_dim", options.caption_projection_dim);
    for (const std::int64_t layer : options.dual_attention_layers) {
      expects(layer >= 0 && layer < options.num_layers, "dual_attention_layers",
              "numbers of layers", layer);
    }
    return options;
  }

  void expects_shapes(const Tensor& x_t, const TextCondition& condition) const {
    const std::int64_t patch = options_.patch_size;
    const std::int64_t most = patch * options_.pos_embed_max_size;
    const auto fits = [&](std::int64_t side) {
      return side >= patch && side <= most && side % patch == 0;
    };
    if (x_t.dim() != 4 || x_t.size(1) != options_.in_channels || !fits(x_t.size(2)) ||
        !fits(x_t.size(3))) {
      throw Error("x_t",
                  "shape [B, " + shown(options_.in_channels) +
                      ", H, W] with H and W multiples of " + shown(patch) + " up to " + shown(most),
                  shape_text(x_t));
    }
    expects_condition_of(condition, x_t);
    if (condition.sequence.dim() != 3 ||
        condition.sequence.size(2) != options_.joint_attention_dim) {
      throw Error("condition.sequence", "shape [B, L, " + shown(options_.joint_attention_dim) + "]",
                  shape_text(condition.sequence));
    }
    if (condition.pooled.dim() != 2 || condition.pooled.size(1) != options_.pooled_projection_dim) {
      throw Error("condition.pooled", "shape [B, " + shown(options_.pooled_projection_dim) + "]",
                  shape_text(condition.pooled));
    }
  }

  static std::pair<Tensor, Tensor> through(const MmditBlock& block, const Tensor& image,
                                           const Tensor& text, const Tensor& embedding,
                                           const MmditRunOptions& run) {
    if (!run.recompute) return block.forward(image, text, embedding);
    const auto forward = [&block](const std::vector<Tensor>& x) -> std::vector<Tensor> {
      auto [new_image, new_text] = block.forward(x[0], x[1], x[2]);
      if (!new_text.defined()) return {new_image};
      return {new_image, new_text};
    };
    const std::vector<Tensor> out = recomputed(block, forward, {image, text, embedding});
    return {out[0], out.size() > 1 ? out[1] : Tensor()};
  }

  /// Tokens as an image again: [B, rows columns, p p C] to [B, C, rows p, columns p].
  Tensor assembled(const Tensor& tokens, std::int64_t rows, std::int64_t columns) const {
    const std::int64_t p = options_.patch_size, channels = options_.out_channels;
    return tokens.reshape({tokens.size(0), rows, columns, p, p, channels})
        .permute({0, 5, 1, 3, 2, 4})
        .reshape({tokens.size(0), channels, rows * p, columns * p});
  }

  MmditOptions options_;
  std::shared_ptr<Conv2d> patches_;
  std::shared_ptr<EmbeddingMlp> time_, pooled_;
  std::shared_ptr<LoraLinear> context_;
  std::vector<std::shared_ptr<MmditBlock>> blocks_;
  std::shared_ptr<detail::Modulation> last_modulation_;
  std::shared_ptr<LoraLinear> out_;
};

}  // namespace contraflow
