#pragma once

/// @file
/// The U-Net of diffusion models.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/random.hpp>
#include <contraflow/network/attention.hpp>
#include <contraflow/network/conditioning.hpp>
#include <contraflow/network/recompute.hpp>
#include <contraflow/network/weights.hpp>

namespace contraflow {

/// Shape of a Unet; the defaults are a small one, for 8 x 8 images.
struct UnetOptions {
  std::int64_t sample_size = 8;  ///< side of a sample, a multiple of 2^(levels - 1)
  std::int64_t channels = 1;     ///< of a sample
  /// Channels of each level, the finest first; each level halves the side of the one before it.
  std::vector<std::int64_t> level_channels = {32, 64};
  std::int64_t layers_per_level = 1;                 ///< residual layers; one more on the way up
  std::vector<std::int64_t> attention_levels = {1};  ///< levels with attention; the middle has it
  std::int64_t attention_head_dim = 32;   ///< features of a head, divides channels with attention
  std::int64_t norm_num_groups = 8;       ///< divides the channels of every level
  ConditioningOptions conditioning = {};  ///< what it is conditioned on
  bool recompute = false;                 ///< keep only each layer's input while training

  /// Features of the embedding of time and condition.
  std::int64_t embedding_size() const { return 4 * level_channels.front(); }
};

namespace detail {

inline constexpr double unet_eps = 1e-5;

/// Two convolutions around which the input passes; the embedding modulates the second
/// normalisation.
class UnetResidual : public torch::nn::Module {
 public:
  UnetResidual(std::int64_t in, std::int64_t out, const UnetOptions& options)
      : first_norm_(place<GroupNorm>(*this, "norm1", options.norm_num_groups, in, unet_eps)),
        second_norm_(place<GroupNorm>(*this, "norm2", options.norm_num_groups, out, unet_eps)),
        first_(place<Conv2d>(*this, "conv1", in, out, 3, 1, 1)),
        second_(place<Conv2d>(*this, "conv2", out, out, 3, 1, 1)),
        embedding_(place<LoraLinear>(*this, "time_emb_proj", options.embedding_size(), 2 * out)) {
    if (in != out) shortcut_ = place<Conv2d>(*this, "conv_shortcut", in, out, 1);
  }

  Tensor forward(const Tensor& x, const Tensor& silu_of_embedding) const {
    const auto m = embedding_->forward(silu_of_embedding).unsqueeze(2).unsqueeze(3).chunk(2, 1);
    const Tensor h = first_->forward(at::silu(first_norm_->forward(x)));
    const Tensor normalised = at::addcmul(m[0], second_norm_->forward(h), m[1] + 1);
    return second_->forward(at::silu(normalised)) + (shortcut_ ? shortcut_->forward(x) : x);
  }

 private:
  std::shared_ptr<GroupNorm> first_norm_, second_norm_;
  std::shared_ptr<Conv2d> first_, second_, shortcut_;
  std::shared_ptr<LoraLinear> embedding_;
};

/// Attention over all pixels and, with prompts, over their tokens.
class UnetAttention : public torch::nn::Module {
 public:
  UnetAttention(std::int64_t channels, const UnetOptions& options)
      : norm_(place<GroupNorm>(*this, "norm", options.norm_num_groups, channels, unet_eps)),
        pixels_(place<Attention>(*this, "attn", channels, channels / options.attention_head_dim,
                                 channels)) {
    if (options.conditioning.text_size == 0) return;
    text_norm_ = place<LayerNorm>(*this, "text_norm", channels, unet_eps);
    text_ = place<Attention>(*this, "text_attn", channels, channels / options.attention_head_dim,
                             options.embedding_size());
  }

  Tensor forward(const Tensor& x, const Tensor& text) const {
    const Tensor seen = norm_->forward(x).flatten(2).transpose(1, 2);
    Tensor y = x.flatten(2).transpose(1, 2) + pixels_->forward(seen, seen);
    if (text_) y = y + text_->forward(text_norm_->forward(y), text);
    return y.transpose(1, 2).reshape(x.sizes());
  }

 private:
  std::shared_ptr<GroupNorm> norm_;
  std::shared_ptr<Attention> pixels_, text_;
  std::shared_ptr<LayerNorm> text_norm_;
};

/// A residual layer, with attention behind it where asked for.
class UnetLayer : public torch::nn::Module {
 public:
  UnetLayer(std::int64_t in, std::int64_t out, bool has_attention, const UnetOptions& options)
      : residual_(place<UnetResidual>(*this, "resnet", in, out, options)) {
    if (has_attention) attention_ = place<UnetAttention>(*this, "attention", out, options);
  }

  Tensor forward(const Tensor& x, const Tensor& silu_of_embedding, const Tensor& text) const {
    const Tensor y = residual_->forward(x, silu_of_embedding);
    return attention_ ? attention_->forward(y, text) : y;
  }

 private:
  std::shared_ptr<UnetResidual> residual_;
  std::shared_ptr<UnetAttention> attention_;
};

/// One level of either side: its layers, and the convolution that leads to the next level.
struct UnetLevel {
  std::vector<std::shared_ptr<UnetLayer>> layers;
  std::shared_ptr<Conv2d> resize;  ///< null on the last level
};

}  // namespace detail

/// The network behind Unet.
class UnetNetwork : public torch::nn::Module {
 public:
  using Options = UnetOptions;  ///< its settings

  /// Builds the network without values; see load_weights() and initialise().
  /// @throws Error if an option is out of range
  explicit UnetNetwork(UnetOptions options)
      : options_(checked(std::move(options))),
        conditioning_(*this, options_.conditioning, options_.embedding_size()) {
    const auto& channels = options_.level_channels;
    const std::int64_t levels = std::int64_t(channels.size()), coarsest = channels.back();
    first_ = place<Conv2d>(*this, "conv_in", options_.channels, channels.front(), 3, 1, 1);
    std::vector<std::int64_t> skipped{channels.front()};
    std::int64_t in = channels.front();
    for (std::int64_t i = 0; i < levels; ++i) add_down(i, in, skipped);
    middle_.push_back(layer("mid_block.0", coarsest, coarsest, true));
    middle_.push_back(layer("mid_block.1", coarsest, coarsest, false));
    for (std::int64_t i = levels - 1; i >= 0; --i) add_up(i, in, skipped);
    norm_ =
        place<GroupNorm>(*this, "conv_norm_out", options_.norm_num_groups, in, detail::unet_eps);
    last_ = place<Conv2d>(*this, "conv_out", in, options_.channels, 3, 1, 1);
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
    embedded.vector = at::silu(embedded.vector);
    Tensor x = first_->forward(x_t.to(embedded.vector.scalar_type()));
    std::vector<Tensor> skipped{x};
    for (const auto& level : down_) {
      for (const auto& layer : level.layers) {
        skipped.push_back(x = through(*layer, x, embedded));
      }
      if (level.resize) skipped.push_back(x = level.resize->forward(x));
    }
    for (const auto& layer : middle_) x = through(*layer, x, embedded);
    for (const auto& level : up_) {
      for (const auto& layer : level.layers) {
        x = through(*layer, at::cat({x, skipped.back()}, 1), embedded);
        skipped.pop_back();
      }
      if (!level.resize) continue;
      x = level.resize->forward(at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)}));
    }
    return last_->forward(at::silu(norm_->forward(x)));
  }

  /// Initial weights: zero where the residual branches and the result come out, as published
  /// (Ho and others 2020; Dhariwal and Nichol 2021).
  static Tensor initial_weight(const std::string& name, at::IntArrayRef shape,
                               Generator& generator) {
    const bool is_out = name.find(".conv2.") != std::string::npos ||
                        name.find("attn.to_out.") != std::string::npos ||
                        name.starts_with("conv_out.");
    return is_out ? at::zeros(shape) : contraflow::initial_weight(name, shape, generator);
  }

  /// [channels, sample_size, sample_size].
  std::vector<std::int64_t> sample_shape() const {
    return {options_.channels, options_.sample_size, options_.sample_size};
  }
  /// The settings.
  const UnetOptions& options() const { return options_; }

 private:
  static UnetOptions checked(UnetOptions options) {
    expects_at_least_one(options.channels, "channels");
    expects_at_least_one(options.layers_per_level, "layers_per_level");
    expects_at_least_one(options.attention_head_dim, "attention_head_dim");
    const auto levels = std::int64_t(options.level_channels.size());
    expects(levels >= 1 && levels <= 16, "level_channels", "1 to 16 levels", levels);
    const std::int64_t unit = std::int64_t{1} << (levels - 1);
    expects(options.sample_size >= 1 && options.sample_size % unit == 0, "sample_size",
            "a positive multiple of 2^(levels - 1)", options.sample_size);
    for (const std::int64_t level : options.attention_levels) {
      expects(level >= 0 && level < levels, "attention_levels", "numbers of levels", level);
    }
    for (std::int64_t i = 0; i < levels; ++i) {
      const std::int64_t count = options.level_channels[std::size_t(i)];
      expects_at_least_one(count, "level_channels");
      if (!has_attention(options, i) && i + 1 < levels) continue;
      expects(count % options.attention_head_dim == 0, "attention_head_dim",
              "a divisor of the channels with attention", options.attention_head_dim);
    }
    return options;
  }

  static bool has_attention(const UnetOptions& options, std::int64_t level) {
    const auto& levels = options.attention_levels;
    return std::find(levels.begin(), levels.end(), level) != levels.end();
  }

  std::shared_ptr<detail::UnetLayer> layer(const std::string& name, std::int64_t in,
                                           std::int64_t out, bool attends) {
    return place<detail::UnetLayer>(*this, name, in, out, attends, options_);
  }

  void add_down(std::int64_t number, std::int64_t& in, std::vector<std::int64_t>& skipped) {
    const std::string name = "down_blocks." + std::to_string(number);
    const std::int64_t out = options_.level_channels[std::size_t(number)];
    detail::UnetLevel level;
    for (std::int64_t i = 0; i < options_.layers_per_level; ++i) {
      level.layers.push_back(
          layer(name + ".layers." + std::to_string(i), in, out, has_attention(options_, number)));
      skipped.push_back(in = out);
    }
    if (std::size_t(number) + 1 < options_.level_channels.size()) {
      level.resize = place<Conv2d>(*this, name + ".downsampler", out, out, 3, 2, 1);
      skipped.push_back(out);
    }
    down_.push_back(std::move(level));
  }

  void add_up(std::int64_t number, std::int64_t& in, std::vector<std::int64_t>& skipped) {
    const std::string name = "up_blocks." + std::to_string(number);
    const std::int64_t out = options_.level_channels[std::size_t(number)];
    detail::UnetLevel level;
    for (std::int64_t i = 0; i <= options_.layers_per_level; ++i) {
      level.layers.push_back(layer(name + ".layers." + std::to_string(i), in + skipped.back(), out,
                                   has_attention(options_, number)));
      skipped.pop_back();
      in = out;
    }
    if (number > 0) level.resize = place<Conv2d>(*this, name + ".upsampler", out, out, 3, 1, 1);
    up_.push_back(std::move(level));
  }

  Tensor through(const detail::UnetLayer& layer, const Tensor& x,
                 const detail::Embedded& embedded) const {
    if (!options_.recompute) return layer.forward(x, embedded.vector, embedded.sequence);
    const auto forward = [&layer](const std::vector<Tensor>& in) -> std::vector<Tensor> {
      return {layer.forward(in[0], in[1], in.size() > 2 ? in[2] : Tensor())};
    };
    std::vector<Tensor> inputs{x, embedded.vector};
    if (embedded.sequence.defined()) inputs.push_back(embedded.sequence);
    return recomputed(layer, forward, inputs).front();
  }

  UnetOptions options_;
  detail::Conditioning conditioning_;
  std::shared_ptr<Conv2d> first_, last_;
  std::vector<detail::UnetLevel> down_, up_;
  std::vector<std::shared_ptr<detail::UnetLayer>> middle_;
  std::shared_ptr<GroupNorm> norm_;
};

}  // namespace contraflow
