#pragma once

/// @file
/// The encoder of T5 (Raffel and others 2020), in version 1.1.

#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/network/layers.hpp>
#include <contraflow/network/weights.hpp>

namespace contraflow {

/// Shape of a T5Encoder; names are those of the published config.json, the defaults are those of
/// T5 1.1 XXL, the third text encoder of Stable Diffusion 3.
struct T5Options {
  std::int64_t vocab_size = 32128;                     ///< number of tokens
  std::int64_t d_model = 4096;                         ///< features of a token
  std::int64_t d_kv = 64;                              ///< features of a head
  std::int64_t d_ff = 10240;                           ///< inside the feed-forward layers
  std::int64_t num_layers = 24;                        ///< transformer layers
  std::int64_t num_heads = 64;                         ///< in each attention
  std::int64_t relative_attention_num_buckets = 32;    ///< a multiple of 4
  std::int64_t relative_attention_max_distance = 128;  ///< beyond it all distances are one
  double layer_norm_epsilon = 1e-6;                    ///< above 0
};

/// Which bucket the distance between two tokens falls into: half of the buckets for each
/// direction, of them half for one distance each and half spaced logarithmically (Raffel and others
/// 2020, section 2.1, as published).
/// @param length number of tokens L
/// @param options number of buckets and the largest distance
/// @return int64 [L, L], of query and key
inline Tensor relative_buckets(std::int64_t length, const T5Options& options) {
  const Tensor position = at::arange(length, at::kLong);
  const Tensor distance = position.unsqueeze(0) - position.unsqueeze(1);
  const std::int64_t half = options.relative_attention_num_buckets / 2, exact = half / 2;
  const double span = std::log(double(options.relative_attention_max_distance) / double(exact));
  const Tensor away = distance.abs();
  const Tensor octaves = (away.clamp_min(1).to(at::kFloat) / double(exact)).log() / span;
  const Tensor far = exact + (octaves * double(half - exact)).to(at::kLong);
  return at::where(away < exact, away, far.clamp_max(half - 1)) +
         distance.gt(0).to(at::kLong) * half;
}

namespace detail {

/// One layer of T5: attention over all tokens and a gated feed-forward layer.
class T5Layer : public torch::nn::Module {
 public:
  T5Layer(const T5Options& options, bool has_bias)
      : heads_(options.num_heads),
        query_(linear("layer.0.SelfAttention.q", options.d_model, inner(options))),
        key_(linear("layer.0.SelfAttention.k", options.d_model, inner(options))),
        value_(linear("layer.0.SelfAttention.v", options.d_model, inner(options))),
        out_(linear("layer.0.SelfAttention.o", inner(options), options.d_model)),
        gate_(linear("layer.1.DenseReluDense.wi_0", options.d_model, options.d_ff)),
        widen_(linear("layer.1.DenseReluDense.wi_1", options.d_model, options.d_ff)),
        narrow_(linear("layer.1.DenseReluDense.wo", options.d_ff, options.d_model)),
        attention_norm_(norm("layer.0.layer_norm", options)),
        feed_forward_norm_(norm("layer.1.layer_norm", options)) {
    if (!has_bias) return;
    bias_ = place<Embedding>(*this, "layer.0.SelfAttention.relative_attention_bias",
                             options.relative_attention_num_buckets, options.num_heads);
  }

  Tensor forward(const Tensor& x, const Tensor& bias) const {
    const Tensor y = x + attended(attention_norm_->forward(x), bias);
    const Tensor normalised = feed_forward_norm_->forward(y);
    const Tensor inside = gelu_tanh(gate_->forward(normalised)) * widen_->forward(normalised);
    // The last weight may be wider than the others; see t5_weights().
    return y + narrow_->forward(inside.to(narrow_->dtype()));
  }

  /// What attention adds by distance, [1, heads, L, L].
  Tensor bias(const Tensor& buckets) const {
    return bias_->forward(on_device(buckets, bias_->weight().device()))
        .permute({2, 0, 1})
        .unsqueeze(0);
  }

 private:
  static std::int64_t inner(const T5Options& options) { return options.num_heads * options.d_kv; }
  std::shared_ptr<LoraLinear> linear(const char* name, std::int64_t in, std::int64_t out) {
    return place<LoraLinear>(*this, name, in, out, false);
  }
  std::shared_ptr<RmsNorm> norm(const char* name, const T5Options& options) {
    return place<RmsNorm>(*this, name, options.d_model, options.layer_norm_epsilon);
  }
  Tensor attended(const Tensor& x, const Tensor& bias) const {
    const auto heads = [&](const LoraLinear& layer) {
      return split_heads(layer.forward(x), heads_);
    };
    // Not divided by the root of the features: T5's initial weights hold that factor.
    return out_->forward(join_heads(at::scaled_dot_product_attention(
        heads(*query_), heads(*key_), heads(*value_), bias, 0.0, false, /*scale=*/1.0)));
  }

  std::int64_t heads_;
  std::shared_ptr<LoraLinear> query_, key_, value_, out_, gate_, widen_, narrow_;
  std::shared_ptr<RmsNorm> attention_norm_, feed_forward_norm_;
  std::shared_ptr<Embedding> bias_;
};

}  // namespace detail

/// The encoder of T5 1.1: a transformer whose attention knows positions only by a bias that depends
/// on distance.
///
/// The first layer's bias serves all of them. Weights have the names of transformers'
/// T5EncoderModel. No token is masked: as in Stable Diffusion 3, padding takes part in attention.
/// @par Shape
/// ids int64 [B, L] in [0, vocab_size); result [B, L, d_model]
class T5Encoder : public torch::nn::Module {
 public:
  /// Builds the network without values; see load_weights() and initialise().
  /// @throws Error if an option is out of range
  explicit T5Encoder(const T5Options& options)
      : options_(checked(options)),
        tokens_(place<Embedding>(*this, "shared", options.vocab_size, options.d_model)) {
    for (std::int64_t i = 0; i < options.num_layers; ++i) {
      layers_.push_back(
          place<detail::T5Layer>(*this, "encoder.block." + std::to_string(i), options, i == 0));
    }
    final_norm_ = place<RmsNorm>(*this, "encoder.final_layer_norm", options.d_model,
                                 options.layer_norm_epsilon);
  }

  /// A vector a token, in the dtype of the weights.
  /// @throws Error if @p ids do not fit
  Tensor forward(const Tensor& ids) const {
    expects_ids(ids);
    const Tensor bias = layers_.front()->bias(relative_buckets(ids.size(1), options_));
    Tensor x = tokens_->forward(ids);
    for (const auto& layer : layers_) x = layer->forward(x, bias);
    return final_norm_->forward(x);
  }

  /// The settings.
  const T5Options& options() const { return options_; }

 private:
  static T5Options checked(const T5Options& options) {
    expects_at_least_one(options.vocab_size, "vocab_size");
    expects_at_least_one(options.d_model, "d_model");
    expects_at_least_one(options.d_kv, "d_kv");
    expects_at_least_one(options.d_ff, "d_ff");
    expects_at_least_one(options.num_layers, "num_layers");
    expects_at_least_one(options.num_heads, "num_heads");
    const std::int64_t buckets = options.relative_attention_num_buckets;
    expects(buckets >= 4 && buckets % 4 == 0, "relative_attention_num_buckets",
            "a positive multiple of 4", buckets);
    expects(options.relative_attention_max_distance > buckets / 4,
            "relative_attention_max_distance", "above a quarter of the buckets",
            options.relative_attention_max_distance);
    expects(options.layer_norm_epsilon > 0, "layer_norm_epsilon", "above 0",
            options.layer_norm_epsilon);
    return options;
  }

  void expects_ids(const Tensor& ids) const {
    if (!ids.defined() || ids.dim() != 2 || ids.numel() == 0) {
      throw Error("ids", "shape [B, L]", shape_text(ids));
    }
    expects_below(ids, options_.vocab_size, "ids",
                  "tokens in [0, " + shown(options_.vocab_size) + ")");
  }

  T5Options options_;
  std::shared_ptr<Embedding> tokens_;
  std::vector<std::shared_ptr<detail::T5Layer>> layers_;
  std::shared_ptr<RmsNorm> final_norm_;
};

/// The weights of a published T5 file under the names of T5Encoder.
///
/// Some files hold the table of tokens as `encoder.embed_tokens.weight`, some under both names. In
/// float16 the feed-forward layers overflow behind `wo`, which is therefore kept in float32, as
/// transformers does; what follows is then computed in float32 up to the next normalisation.
/// @param weights as read, on any device
/// @param dtype wanted; unset: as the weights come
/// @return the weights in that dtype, to be given to load_weights() without another
inline std::map<std::string, Tensor> t5_weights(std::map<std::string, Tensor> weights,
                                                std::optional<at::ScalarType> dtype = {}) {
  if (auto tokens = weights.extract("encoder.embed_tokens.weight")) {
    weights.emplace("shared.weight", std::move(tokens.mapped()));
  }
  for (auto& [name, weight] : weights) {
    const auto wanted = dtype.value_or(weight.scalar_type());
    weight = weight.to(wanted == at::kHalf && name.ends_with(".wo.weight") ? at::kFloat : wanted);
  }
  return weights;
}

}  // namespace contraflow
