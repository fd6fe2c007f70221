#pragma once

/// @file
/// The text and vision towers of CLIP (Radford and others 2021).

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <contraflow/network/layers.hpp>
#include <contraflow/network/weights.hpp>

namespace contraflow {

/// The nonlinearity inside a feed-forward layer of CLIP.
enum class Activation {
  quick_gelu,  ///< x sigmoid(1.702 x): OpenAI's models
  gelu         ///< exact, with the error function: LAION's models
};

/// Shape of a text tower; names are those of the published config.json, the defaults are those of
/// CLIP ViT-L/14, the first text encoder of Stable Diffusion 3.
struct ClipTextOptions {
  std::int64_t vocab_size = 49408;                 ///< number of tokens
  std::int64_t max_position_embeddings = 77;       ///< the longest sequence
  std::int64_t hidden_size = 768;                  ///< features of a token
  std::int64_t intermediate_size = 3072;           ///< inside the feed-forward layers
  std::int64_t projection_dim = 768;               ///< of the pooled result
  std::int64_t num_hidden_layers = 12;             ///< transformer layers
  std::int64_t num_attention_heads = 12;           ///< divides hidden_size
  Activation hidden_act = Activation::quick_gelu;  ///< inside the feed-forward layers
  double layer_norm_eps = 1e-5;                    ///< above 0
  std::int64_t eos_token_id = 2;  ///< pools at its first position; 2: at the largest id's
  bool has_projection = true;     ///< else what is pooled is the normalised state, as in FLUX.1
};

/// Shape of a vision tower; names are those of the published config.json, the defaults are those of
/// CLIP ViT-L/14.
struct ClipVisionOptions {
  std::int64_t num_channels = 3;                   ///< of an image
  std::int64_t image_size = 224;                   ///< side of an image, a multiple of patch_size
  std::int64_t patch_size = 14;                    ///< side of a patch
  std::int64_t hidden_size = 1024;                 ///< features of a patch
  std::int64_t intermediate_size = 4096;           ///< inside the feed-forward layers
  std::int64_t projection_dim = 768;               ///< of the result
  std::int64_t num_hidden_layers = 24;             ///< transformer layers
  std::int64_t num_attention_heads = 16;           ///< divides hidden_size
  Activation hidden_act = Activation::quick_gelu;  ///< inside the feed-forward layers
  double layer_norm_eps = 1e-5;                    ///< above 0
};

/// Shape of both towers, whose projections have one size.
struct ClipOptions {
  ClipTextOptions text;      ///< of the captions
  ClipVisionOptions vision;  ///< of the images
};

/// The text encoder of Stable Diffusion 3's `text_encoder`: CLIP ViT-L/14.
inline ClipTextOptions clip_l_text() { return {}; }

/// The text encoder of Stable Diffusion 3's `text_encoder_2`: OpenCLIP ViT-bigG/14.
inline ClipTextOptions clip_g_text() {
  return {.hidden_size = 1280,
          .intermediate_size = 5120,
          .projection_dim = 1280,
          .num_hidden_layers = 32,
          .num_attention_heads = 20,
          .hidden_act = Activation::gelu};
}

/// LAION's CLIP ViT-H/14, which PickScore v1 and HPS v2.1 are fine-tuned from.
inline ClipOptions clip_vit_h14() {
  return {.text = {.hidden_size = 1024,
                   .intermediate_size = 4096,
                   .projection_dim = 1024,
                   .num_hidden_layers = 24,
                   .num_attention_heads = 16,
                   .hidden_act = Activation::gelu},
          .vision = {.hidden_size = 1280,
                     .intermediate_size = 5120,
                     .projection_dim = 1024,
                     .num_hidden_layers = 32,
                     .num_attention_heads = 16,
                     .hidden_act = Activation::gelu}};
}

/// What a text tower gives.
/// @par Shape
/// last_hidden_state and penultimate [B, L, hidden_size]; pooled [B, projection_dim], without a
/// projection [B, hidden_size]
struct ClipTextOutput {
  Tensor last_hidden_state;  ///< behind the final normalisation
  Tensor penultimate;        ///< before the last layer, not normalised: what Stable Diffusion uses
  Tensor pooled;             ///< the normalised state at the end of the text, projected
};

namespace detail {

inline Tensor activated(Activation activation, const Tensor& x) {
  return activation == Activation::gelu ? at::gelu(x) : x * at::sigmoid(x * 1.702);
}

template <class Options>
void expects_clip_sizes(const Options& options) {
  expects_at_least_one(options.hidden_size, "hidden_size");
  expects_at_least_one(options.intermediate_size, "intermediate_size");
  expects_at_least_one(options.projection_dim, "projection_dim");
  expects_at_least_one(options.num_hidden_layers, "num_hidden_layers");
  expects_at_least_one(options.num_attention_heads, "num_attention_heads");
  expects(options.hidden_size % options.num_attention_heads == 0, "num_attention_heads",
          "a divisor of hidden_size", options.num_attention_heads);
  expects(options.layer_norm_eps > 0, "layer_norm_eps", "above 0", options.layer_norm_eps);
}

/// One layer of either tower: attention and a feed-forward layer, each behind a normalisation.
class ClipLayer : public torch::nn::Module {
 public:
  template <class Options>
  explicit ClipLayer(const Options& options)
      : heads_(options.num_attention_heads),
        activation_(options.hidden_act),
        attention_norm_(
            place<LayerNorm>(*this, "layer_norm1", options.hidden_size, options.layer_norm_eps)),
        feed_forward_norm_(
            place<LayerNorm>(*this, "layer_norm2", options.hidden_size, options.layer_norm_eps)),
        query_(square("self_attn.q_proj", options.hidden_size)),
        key_(square("self_attn.k_proj", options.hidden_size)),
        value_(square("self_attn.v_proj", options.hidden_size)),
        out_(square("self_attn.out_proj", options.hidden_size)),
        widen_(place<LoraLinear>(*this, "mlp.fc1", options.hidden_size, options.intermediate_size)),
        narrow_(
            place<LoraLinear>(*this, "mlp.fc2", options.intermediate_size, options.hidden_size)) {}

  Tensor forward(const Tensor& x, bool is_causal) const {
    const Tensor y = x + attended(attention_norm_->forward(x), is_causal);
    const Tensor wide = widen_->forward(feed_forward_norm_->forward(y));
    return y + narrow_->forward(activated(activation_, wide));
  }

 private:
  std::shared_ptr<LoraLinear> square(const char* name, std::int64_t size) {
    return place<LoraLinear>(*this, name, size, size);
  }
  Tensor attended(const Tensor& x, bool is_causal) const {
    const auto heads = [&](const LoraLinear& layer) {
      return split_heads(layer.forward(x), heads_);
    };
    return out_->forward(join_heads(at::scaled_dot_product_attention(
        heads(*query_), heads(*key_), heads(*value_), {}, 0.0, is_causal)));
  }

  std::int64_t heads_;
  Activation activation_;
  std::shared_ptr<LayerNorm> attention_norm_, feed_forward_norm_;
  std::shared_ptr<LoraLinear> query_, key_, value_, out_, widen_, narrow_;
};

template <class Options>
std::vector<std::shared_ptr<ClipLayer>> clip_layers(torch::nn::Module& root,
                                                    const std::string& prefix,
                                                    const Options& options) {
  std::vector<std::shared_ptr<ClipLayer>> layers;
  for (std::int64_t i = 0; i < options.num_hidden_layers; ++i) {
    layers.push_back(place<ClipLayer>(root, prefix + std::to_string(i), options));
  }
  return layers;
}

/// The text tower, registered below any module.
class ClipTextTower {
 public:
  ClipTextTower(torch::nn::Module& root, const ClipTextOptions& options)
      : options_(checked(options)),
        tokens_(place<Embedding>(root, "text_model.embeddings.token_embedding", options.vocab_size,
                                 options.hidden_size)),
        positions_(place<Embedding>(root, "text_model.embeddings.position_embedding",
                                    options.max_position_embeddings, options.hidden_size)),
        layers_(clip_layers(root, "text_model.encoder.layers.", options)),
        final_norm_(place<LayerNorm>(root, "text_model.final_layer_norm", options.hidden_size,
                                     options.layer_norm_eps)) {
    if (!options.has_projection) return;
    projection_ = place<LoraLinear>(root, "text_projection", options.hidden_size,
                                    options.projection_dim, false);
  }

  ClipTextOutput operator()(const Tensor& ids) const {
    expects_ids(ids);
    ClipTextOutput out;
    Tensor x = tokens_->forward(ids) + positions_->weight().narrow(0, 0, ids.size(1));
    for (const auto& layer : layers_) {
      out.penultimate = x;
      x = layer->forward(x, /*is_causal=*/true);
    }
    out.last_hidden_state = final_norm_->forward(x);
    const Tensor rows = at::arange(ids.size(0), ids.options());
    out.pooled = out.last_hidden_state.index({rows, ends(ids)});
    if (projection_) out.pooled = projection_->forward(out.pooled);
    return out;
  }

  const ClipTextOptions& options() const { return options_; }

 private:
  static ClipTextOptions checked(const ClipTextOptions& options) {
    expects_clip_sizes(options);
    expects(options.vocab_size >= 1, "vocab_size", "at least 1", options.vocab_size);
    expects(options.max_position_embeddings >= 1, "max_position_embeddings", "at least 1",
            options.max_position_embeddings);
    return options;
  }

  /// Published configs name 2 as the end of a text, which no text holds: there the tokenizer's
  /// largest id is the end.
  Tensor ends(const Tensor& ids) const {
    if (options_.eos_token_id == 2) return ids.argmax(1);
    return ids.eq(options_.eos_token_id).to(at::kInt).argmax(1);
  }

  void expects_ids(const Tensor& ids) const {
    if (!ids.defined() || ids.dim() != 2 || ids.numel() == 0 ||
        ids.size(1) > options_.max_position_embeddings) {
      throw Error("ids", "shape [B, L] with L up to " + shown(options_.max_position_embeddings),
                  shape_text(ids));
    }
    expects_below(ids, options_.vocab_size, "ids",
                  "tokens in [0, " + shown(options_.vocab_size) + ")");
  }

  ClipTextOptions options_;
  std::shared_ptr<Embedding> tokens_, positions_;
  std::vector<std::shared_ptr<ClipLayer>> layers_;
  std::shared_ptr<LayerNorm> final_norm_;
  std::shared_ptr<LoraLinear> projection_;
};

/// The first token of a vision tower, whose final state is the image's.
class ClassToken : public torch::nn::Module {
 public:
  explicit ClassToken(std::int64_t size) {
    token_ = register_parameter("class_embedding", unfilled({size}));
  }
  /// The token for each image of a batch, [B, 1, size].
  Tensor forward(std::int64_t batch) const { return token_.expand({batch, 1, -1}); }

 private:
  Tensor token_;
};

/// The vision tower, registered below any module.
class ClipVisionTower {
 public:
  ClipVisionTower(torch::nn::Module& root, const ClipVisionOptions& options)
      : options_(checked(options)),
        class_token_(place<ClassToken>(root, "vision_model.embeddings", options.hidden_size)),
        patches_(place<Conv2d>(root, "vision_model.embeddings.patch_embedding",
                               options.num_channels, options.hidden_size, options.patch_size,
                               options.patch_size, 0, false)),
        positions_(place<Embedding>(root, "vision_model.embeddings.position_embedding",
                                    1 + patch_count(options), options.hidden_size)),
        // Misspelt in the published files.
        first_norm_(place<LayerNorm>(root, "vision_model.pre_layrnorm", options.hidden_size,
                                     options.layer_norm_eps)),
        layers_(clip_layers(root, "vision_model.encoder.layers.", options)),
        final_norm_(place<LayerNorm>(root, "vision_model.post_layernorm", options.hidden_size,
                                     options.layer_norm_eps)),
        projection_(place<LoraLinear>(root, "visual_projection", options.hidden_size,
                                      options.projection_dim, false)) {}

  Tensor operator()(const Tensor& pixels) const {
    expects_pixels(pixels);
    const Tensor weights = positions_->weight();
    const Tensor patches =
        patches_->forward(pixels.to(weights.scalar_type())).flatten(2).transpose(1, 2);
    Tensor x = at::cat({class_token_->forward(pixels.size(0)), patches}, 1) + weights;
    x = first_norm_->forward(x);
    for (const auto& layer : layers_) x = layer->forward(x, /*is_causal=*/false);
    return projection_->forward(final_norm_->forward(x.select(1, 0)));
  }

  const ClipVisionOptions& options() const { return options_; }

 private:
  static std::int64_t patch_count(const ClipVisionOptions& options) {
    const std::int64_t side = options.image_size / options.patch_size;
    return side * side;
  }
  static ClipVisionOptions checked(const ClipVisionOptions& options) {
    expects_clip_sizes(options);
    expects(options.num_channels >= 1, "num_channels", "at least 1", options.num_channels);
    expects(options.patch_size >= 1, "patch_size", "at least 1", options.patch_size);
    expects(options.image_size >= 1 && options.image_size % options.patch_size == 0, "image_size",
            "a multiple of patch_size", options.image_size);
    return options;
  }
  void expects_pixels(const Tensor& pixels) const {
    const std::int64_t side = options_.image_size;
    if (!pixels.defined() || pixels.dim() != 4 || pixels.size(0) == 0 ||
        pixels.sizes().slice(1) != at::IntArrayRef{options_.num_channels, side, side}) {
      throw Error("pixels",
                  "shape [B, " + shown(options_.num_channels) + ", " + shown(side) + ", " +
                      shown(side) + "]",
                  shape_text(pixels));
    }
    expects(pixels.is_floating_point(), "pixels", "a floating-point tensor", pixels.scalar_type());
  }

  ClipVisionOptions options_;
  std::shared_ptr<ClassToken> class_token_;
  std::shared_ptr<Conv2d> patches_;
  std::shared_ptr<Embedding> positions_;
  std::shared_ptr<LayerNorm> first_norm_;
  std::vector<std::shared_ptr<ClipLayer>> layers_;
  std::shared_ptr<LayerNorm> final_norm_;
  std::shared_ptr<LoraLinear> projection_;
};

}  // namespace detail

/// CLIP's text tower with its projection, or without, as a text encoder.
///
/// A causal transformer over tokens. Weights have the names of transformers'
/// CLIPTextModelWithProjection, or CLIPTextModel. Padding needs no mask: no token sees what comes
/// behind it.
/// @par Shape
/// ids int64 [B, L] in [0, vocab_size), L up to max_position_embeddings
class ClipText : public torch::nn::Module {
 public:
  /// Builds the network without values; see load_weights() and initialise().
  /// @throws Error if an option is out of range
  explicit ClipText(const ClipTextOptions& options) : tower_(*this, options) {}

  /// All that is used of the tower, in the dtype of the weights.
  /// @throws Error if @p ids do not fit
  ClipTextOutput forward(const Tensor& ids) const { return tower_(ids); }

  /// The settings.
  const ClipTextOptions& options() const { return tower_.options(); }

 private:
  detail::ClipTextTower tower_;
};

/// CLIP's vision tower with its projection.
///
/// A transformer over the patches of an image and a class token. Weights have the names of
/// transformers' CLIPVisionModelWithProjection.
/// @par Shape
/// pixels [B, num_channels, image_size, image_size], normalised as the model asks
class ClipVision : public torch::nn::Module {
 public:
  /// Builds the network without values; see load_weights() and initialise().
  /// @throws Error if an option is out of range
  explicit ClipVision(const ClipVisionOptions& options) : tower_(*this, options) {}

  /// Embeddings of images [B, projection_dim], not normalised, in the dtype of the weights.
  /// @throws Error if @p pixels do not fit
  Tensor forward(const Tensor& pixels) const { return tower_(pixels); }

  /// The settings.
  const ClipVisionOptions& options() const { return tower_.options(); }

 private:
  detail::ClipVisionTower tower_;
};

/// Both towers of CLIP, which embed captions and images in one space.
///
/// Weights have the names of transformers' CLIPModel.
class Clip : public torch::nn::Module {
 public:
  /// Builds the network without values; see load_weights() and initialise().
  /// @throws Error if an option is out of range
  explicit Clip(const ClipOptions& options)
      : text_(*this, options.text), vision_(*this, options.vision) {
    expects(options.text.projection_dim == options.vision.projection_dim, "projection_dim",
            "the same for text and vision", options.text.projection_dim);
    logit_scale_ = register_parameter("logit_scale", unfilled({}));
  }

  /// Embeddings of captions [B, projection_dim], not normalised, in the dtype of the weights.
  /// @param ids int64 [B, L]
  /// @throws Error if @p ids do not fit
  Tensor text_embedding(const Tensor& ids) const { return text_(ids).pooled; }

  /// Embeddings of images [B, projection_dim], not normalised, in the dtype of the weights.
  /// @param pixels [B, num_channels, image_size, image_size], normalised as the model asks
  /// @throws Error if @p pixels do not fit
  Tensor image_embedding(const Tensor& pixels) const { return vision_(pixels); }

  /// What cosines are multiplied by, `exp(logit_scale)`, rank 0.
  Tensor scale() const { return logit_scale_.exp(); }

  /// The settings of the vision tower.
  const ClipVisionOptions& vision_options() const { return vision_.options(); }

 private:
  detail::ClipTextTower text_;
  detail::ClipVisionTower vision_;
  Tensor logit_scale_;
};

/// The weights of a published CLIP file without what is no weight: files of older transformers
/// also hold `position_ids`, the numbers from 0 on; a text tower alone has the names of newer
/// ones, or the same without the prefix `text_model`.
inline std::map<std::string, Tensor> clip_weights(std::map<std::string, Tensor> weights) {
  std::erase_if(weights, [](const auto& item) { return item.first.ends_with(".position_ids"); });
  if (!weights.contains("embeddings.token_embedding.weight")) return weights;
  std::map<std::string, Tensor> named;
  for (auto& [name, tensor] : weights) {
    named.emplace((name.starts_with("text_projection.") ? "" : "text_model.") + name, tensor);
  }
  return named;
}

}  // namespace contraflow
