#pragma once

/// @file
/// The diffusion transformer.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/random.hpp>
#include <contraflow/network/attention.hpp>
#include <contraflow/network/conditioning.hpp>
#include <contraflow/network/modulation.hpp>
#include <contraflow/network/recompute.hpp>
#include <contraflow/network/weights.hpp>

namespace contraflow {

/// Shape of a Dit; the defaults are a small one, for 8 x 8 images.
struct DitOptions {
  std::int64_t sample_size = 8;           ///< side of a sample, a multiple of patch_size
  std::int64_t patch_size = 2;            ///< side of a patch
  std::int64_t channels = 1;              ///< of a sample
  std::int64_t num_layers = 4;            ///< transformer blocks
  std::int64_t num_attention_heads = 4;   ///< in each attention
  std::int64_t attention_head_dim = 32;   ///< features of a head
  ConditioningOptions conditioning = {};  ///< what it is conditioned on
  bool recompute = false;                 ///< keep only each block's input while training

  /// Features of a token.
  std::int64_t width() const { return num_attention_heads * attention_head_dim; }
};

namespace detail {

/// Self-attention, with prompts attention over their tokens, and a feed-forward layer.
class DitBlock : public torch::nn::Module {
 public:
  explicit DitBlock(const DitOptions& options)
      : modulation_(place<Modulation>(*this, "norm1", options.width(), 6)),
        attention_(place<Attention>(*this, "attn", options.width(), options.num_attention_heads,
                                    options.width())),
        feed_forward_(place<FeedForward>(*this, "ff", options.width())) {
    if (options.conditioning.text_size == 0) return;
    text_attention_ = place<Attention>(*this, "text_attn", options.width(),
                                       options.num_attention_heads, options.width());
  }

  /// @param silu_of_embedding [B, width]
  /// @param text [B, L, width], or undefined
  Tensor forward(const Tensor& x, const Tensor& silu_of_embedding, const Tensor& text) const {
    const auto m = modulation_->forward(silu_of_embedding);
    const Tensor seen = modulated(normalised_layer(x), m[0], m[1]);
    Tensor y = gated(x, m[2], attention_->forward(seen, seen));
    if (text_attention_) y = y + text_attention_->forward(y, text);
    return gated(y, m[5], feed_forward_->forward(modulated(normalised_layer(y), m[3], m[4])));
  }

 private:
  std::shared_ptr<Modulation> modulation_;
  std::shared_ptr<Attention> attention_, text_attention_;
  std::shared_ptr<FeedForward> feed_forward_;
};

}  // namespace detail

/// The network behind Dit.
class DitNetwork : public torch::nn::Module {
 public:
  using Options = DitOptions;  ///< its settings

  /// Builds the network without values; see load_weights() and initialise().
  /// @throws Error if an option is out of range
  explicit DitNetwork(const DitOptions& options)
      : options_(checked(options)), conditioning_(*this, options.conditioning, options.width()) {
    const std::int64_t width = options.width(), patch = options.patch_size;
    patches_ = place<Conv2d>(*this, "patch_embedder", options.channels, width, patch, patch);
    for (std::int64_t i = 0; i < options.num_layers; ++i) {
      blocks_.push_back(place<detail::DitBlock>(*this, "blocks." + std::to_string(i), options));
    }
    last_modulation_ = place<detail::Modulation>(*this, "norm_out", width, 2);
    out_ = place<LoraLinear>(*this, "proj_out", width, patch * patch * options.channels);
    positions_ = position_grid(options.sample_size / patch, 1, width);
  }

  /// The velocity, in the dtype of the weights.
  /// @param x_t [B, channels, sample_size, sample_size]
  /// @param t [B] in [0, 1]
  /// @param condition Unconditional, labels or TextCondition, as the options say
  /// @throws Error if a shape or the condition does not fit
  template <class C>
  Tensor forward(const Tensor& x_t, const Tensor& t, const C& condition) const {
    detail::expects_shape(x_t, sample_shape());
    expects_per_sample(t, x_t, "t");
    detail::Embedded embedded = conditioning_(t, condition);
    const Tensor vector = silu(std::move(embedded.vector));
    Tensor x = patches_->forward(x_t.to(vector.scalar_type())).flatten(2).transpose(1, 2);
    x = (x + on_device(positions_, x.device(), x.scalar_type())).contiguous();
    for (const auto& block : blocks_) x = through(*block, x, vector, embedded.sequence);
    const auto m = last_modulation_->forward(vector);
    return assembled(out_->forward(detail::modulated(detail::normalised_layer(x), m[0], m[1])));
  }

  /// Initial weights: zero where the residual branches and the result come out, so that every block
  /// begins as the identity (Peebles and Xie 2023, section 3.2).
  static Tensor initial_weight(const std::string& name, at::IntArrayRef shape,
                               Generator& generator) {
    const bool is_out = name.find("norm1.linear") != std::string::npos ||
                        name.find("norm_out.linear") != std::string::npos ||
                        name.find("text_attn.to_out") != std::string::npos ||
                        name.starts_with("proj_out.");
    return is_out ? at::zeros(shape) : contraflow::initial_weight(name, shape, generator);
  }

  /// [channels, sample_size, sample_size].
  std::vector<std::int64_t> sample_shape() const {
    return {options_.channels, options_.sample_size, options_.sample_size};
  }
  /// The settings.
  const DitOptions& options() const { return options_; }

 private:
  static DitOptions checked(const DitOptions& options) {
    expects_at_least_one(options.channels, "channels");
    expects_at_least_one(options.num_layers, "num_layers");
    expects_at_least_one(options.num_attention_heads, "num_attention_heads");
    expects_at_least_one(options.attention_head_dim, "attention_head_dim");
    expects_at_least_one(options.patch_size, "patch_size");
    expects(options.sample_size >= 1 && options.sample_size % options.patch_size == 0,
            "sample_size", "a positive multiple of patch_size", options.sample_size);
    expects(options.width() % 4 == 0, "attention_head_dim", "heads times features a multiple of 4",
            options.width());
    return options;
  }

  Tensor through(const detail::DitBlock& block, const Tensor& x, const Tensor& vector,
                 const Tensor& text) const {
    if (!options_.recompute) return block.forward(x, vector, text);
    const auto forward = [&block](const std::vector<Tensor>& in) -> std::vector<Tensor> {
      return {block.forward(in[0], in[1], in.size() > 2 ? in[2] : Tensor())};
    };
    std::vector<Tensor> inputs{x, vector};
    if (text.defined()) inputs.push_back(text);
    return recomputed(block, forward, inputs).front();
  }

  /// Tokens as an image again.
  Tensor assembled(const Tensor& tokens) const {
    const std::int64_t p = options_.patch_size, side = options_.sample_size / p;
    return tokens.reshape({tokens.size(0), side, side, p, p, options_.channels})
        .permute({0, 5, 1, 3, 2, 4})
        .reshape({tokens.size(0), options_.channels, side * p, side * p});
  }

  DitOptions options_;
  detail::Conditioning conditioning_;
  std::shared_ptr<Conv2d> patches_;
  std::vector<std::shared_ptr<detail::DitBlock>> blocks_;
  std::shared_ptr<detail::Modulation> last_modulation_;
  std::shared_ptr<LoraLinear> out_;
  Tensor positions_;
};

}  // namespace contraflow
