#pragma once

/// @file
/// The autoencoder between images and the latents of Stable Diffusion 3.

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <contraflow/core/random.hpp>
#include <contraflow/network/layers.hpp>
#include <contraflow/network/weights.hpp>

namespace contraflow {

/// Shape of a Vae; the defaults are those of Stable Diffusion 3 and 3.5. Names are those of the
/// published config.json.
struct VaeOptions {
  std::int64_t in_channels = 3;       ///< of an image
  std::int64_t out_channels = 3;      ///< of a decoded image
  std::int64_t latent_channels = 16;  ///< of the latents
  /// Channels of each level, the finest first; each level halves the side of the one before it.
  std::vector<std::int64_t> block_out_channels = {128, 256, 512, 512};
  std::int64_t layers_per_block = 2;    ///< residual layers of a level; one more in the decoder
  std::int64_t norm_num_groups = 32;    ///< divides the channels of every level
  bool use_quant_conv = false;          ///< whether a 1 x 1 convolution follows the encoder
  bool use_post_quant_conv = false;     ///< whether one precedes the decoder
  bool mid_block_add_attention = true;  ///< whether the coarsest level has attention
  double scaling_factor = 1.5305;       ///< latents are this times the shifted code
  double shift_factor = 0.0609;         ///< taken from the code before it is scaled

  /// Pixels a latent pixel, along each side.
  std::int64_t downscale() const { return std::int64_t{1} << (block_out_channels.size() - 1); }
};

/// Which halves of a Vae exist.
enum class VaeParts {
  both,    ///< the encoder and the decoder
  decoder  ///< the decoder alone, which is all that generation needs
};

namespace detail {

/// In place where no gradient will need the input: the last levels decide the memory of decoding.
inline Tensor silu_of(Tensor x) { return at::GradMode::is_enabled() ? at::silu(x) : at::silu_(x); }
inline Tensor sum_of(Tensor x, const Tensor& y) {
  return at::GradMode::is_enabled() ? x + y : x.add_(y);
}

/// Two convolutions around which the input passes.
class VaeResidual : public torch::nn::Module {
 public:
  VaeResidual(std::int64_t in, std::int64_t out, std::int64_t groups)
      : first_norm_(place<GroupNorm>(*this, "norm1", groups, in, vae_eps)),
        second_norm_(place<GroupNorm>(*this, "norm2", groups, out, vae_eps)),
        first_(place<Conv2d>(*this, "conv1", in, out, 3, 1, 1)),
        second_(place<Conv2d>(*this, "conv2", out, out, 3, 1, 1)) {
    if (in != out) shortcut_ = place<Conv2d>(*this, "conv_shortcut", in, out, 1);
  }

  Tensor forward(const Tensor& x) const {
    Tensor h = first_->forward(silu_of(first_norm_->forward(x)));
    h = silu_of(second_norm_->forward(h));
    return sum_of(second_->forward(h), shortcut_ ? shortcut_->forward(x) : x);
  }

  static constexpr double vae_eps = 1e-6;

 private:
  std::shared_ptr<GroupNorm> first_norm_, second_norm_;
  std::shared_ptr<Conv2d> first_, second_, shortcut_;
};

/// Attention of one head over all pixels.
class VaeAttention : public torch::nn::Module {
 public:
  VaeAttention(std::int64_t channels, std::int64_t groups)
      : norm_(place<GroupNorm>(*this, "group_norm", groups, channels, VaeResidual::vae_eps)),
        query_(place<LoraLinear>(*this, "to_q", channels, channels)),
        key_(place<LoraLinear>(*this, "to_k", channels, channels)),
        value_(place<LoraLinear>(*this, "to_v", channels, channels)),
        out_(place<LoraLinear>(*this, "to_out.0", channels, channels)) {}

  Tensor forward(const Tensor& x) const {
    const Tensor pixels = norm_->forward(x).flatten(2).transpose(1, 2);
    const auto head = [&](const LoraLinear& layer) { return layer.forward(pixels).unsqueeze(1); };
    const Tensor attended =
        at::scaled_dot_product_attention(head(*query_), head(*key_), head(*value_)).squeeze(1);
    return x + out_->forward(attended).transpose(1, 2).reshape(x.sizes());
  }

 private:
  std::shared_ptr<GroupNorm> norm_;
  std::shared_ptr<LoraLinear> query_, key_, value_, out_;
};

/// The coarsest level.
class VaeMiddle : public torch::nn::Module {
 public:
  explicit VaeMiddle(const VaeOptions& options)
      : first_(residual("resnets.0", options)), second_(residual("resnets.1", options)) {
    if (!options.mid_block_add_attention) return;
    attention_ = place<VaeAttention>(*this, "attentions.0", options.block_out_channels.back(),
                                     options.norm_num_groups);
  }

  Tensor forward(const Tensor& x) const {
    const Tensor h = first_->forward(x);
    return second_->forward(attention_ ? attention_->forward(h) : h);
  }

 private:
  std::shared_ptr<VaeResidual> residual(const char* name, const VaeOptions& options) {
    const std::int64_t channels = options.block_out_channels.back();
    return place<VaeResidual>(*this, name, channels, channels, options.norm_num_groups);
  }

  std::shared_ptr<VaeResidual> first_, second_;
  std::shared_ptr<VaeAttention> attention_;
};

/// One level: residual layers, then, but on the last level, a convolution that changes the size.
class VaeLevel : public torch::nn::Module {
 public:
  enum class Resize { none, halve, twice };

  VaeLevel(std::int64_t in, std::int64_t out, std::int64_t layers, std::int64_t groups,
           Resize resize)
      : resize_(resize) {
    for (std::int64_t i = 0; i < layers; ++i) {
      residuals_.push_back(place<VaeResidual>(*this, "resnets." + std::to_string(i),
                                              i == 0 ? in : out, out, groups));
    }
    if (resize == Resize::halve)
      conv_ = place<Conv2d>(*this, "downsamplers.0.conv", out, out, 3, 2);
    if (resize == Resize::twice) {
      conv_ = place<Conv2d>(*this, "upsamplers.0.conv", out, out, 3, 1, 1);
    }
  }

  Tensor forward(Tensor x) const {
    for (const auto& residual : residuals_) x = residual->forward(x);
    if (resize_ == Resize::none) return x;
    // Padded at the right and the bottom only, as published.
    x = resize_ == Resize::halve ? at::constant_pad_nd(x, {0, 1, 0, 1})
                                 : at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)});
    return conv_->forward(x);
  }

 private:
  Resize resize_;
  std::vector<std::shared_ptr<VaeResidual>> residuals_;
  std::shared_ptr<Conv2d> conv_;
};

}  // namespace detail

/// The half of a Vae that makes images of codes.
/// @par Shape
/// z [B, latent_channels, H, W]; result [B, out_channels, 8 H, 8 W] with four levels, about [-1, 1]
class VaeDecoder : public torch::nn::Module {
 public:
  /// Builds the network without values.
  explicit VaeDecoder(const VaeOptions& options) {
    const auto& channels = options.block_out_channels;
    const std::size_t levels = channels.size();
    first_ = place<Conv2d>(*this, "conv_in", options.latent_channels, channels.back(), 3, 1, 1);
    middle_ = place<detail::VaeMiddle>(*this, "mid_block", options);
    std::int64_t in = channels.back();
    for (std::size_t i = 0; i < levels; ++i) {
      using Resize = detail::VaeLevel::Resize;
      const std::int64_t out = channels[levels - 1 - i];
      levels_.push_back(place<detail::VaeLevel>(
          *this, "up_blocks." + std::to_string(i), in, out, options.layers_per_block + 1,
          options.norm_num_groups, i + 1 == levels ? Resize::none : Resize::twice));
      in = out;
    }
    norm_ = place<GroupNorm>(*this, "conv_norm_out", options.norm_num_groups, in,
                             detail::VaeResidual::vae_eps);
    last_ = place<Conv2d>(*this, "conv_out", in, options.out_channels, 3, 1, 1);
  }

  /// The image.
  Tensor forward(const Tensor& z) const {
    Tensor x = middle_->forward(first_->forward(z));
    for (const auto& level : levels_) x = level->forward(std::move(x));
    return last_->forward(detail::silu_of(norm_->forward(x)));
  }

 private:
  std::shared_ptr<Conv2d> first_, last_;
  std::shared_ptr<detail::VaeMiddle> middle_;
  std::vector<std::shared_ptr<detail::VaeLevel>> levels_;
  std::shared_ptr<GroupNorm> norm_;
};

/// The half of a Vae that makes codes of images.
/// @par Shape
/// x [B, in_channels, 8 H, 8 W] with four levels, in [-1, 1]; result [B, 2 latent_channels, H, W]
class VaeEncoder : public torch::nn::Module {
 public:
  /// Builds the network without values.
  explicit VaeEncoder(const VaeOptions& options) {
    const auto& channels = options.block_out_channels;
    first_ = place<Conv2d>(*this, "conv_in", options.in_channels, channels.front(), 3, 1, 1);
    std::int64_t in = channels.front();
    for (std::size_t i = 0; i < channels.size(); ++i) {
      using Resize = detail::VaeLevel::Resize;
      levels_.push_back(place<detail::VaeLevel>(
          *this, "down_blocks." + std::to_string(i), in, channels[i], options.layers_per_block,
          options.norm_num_groups, i + 1 == channels.size() ? Resize::none : Resize::halve));
      in = channels[i];
    }
    middle_ = place<detail::VaeMiddle>(*this, "mid_block", options);
    norm_ = place<GroupNorm>(*this, "conv_norm_out", options.norm_num_groups, in,
                             detail::VaeResidual::vae_eps);
    last_ = place<Conv2d>(*this, "conv_out", in, 2 * options.latent_channels, 3, 1, 1);
  }

  /// Mean and logarithm of the variance of the code.
  Tensor forward(const Tensor& image) const {
    Tensor x = first_->forward(image);
    for (const auto& level : levels_) x = level->forward(std::move(x));
    return last_->forward(detail::silu_of(norm_->forward(middle_->forward(x))));
  }

 private:
  std::shared_ptr<Conv2d> first_, last_;
  std::vector<std::shared_ptr<detail::VaeLevel>> levels_;
  std::shared_ptr<detail::VaeMiddle> middle_;
  std::shared_ptr<GroupNorm> norm_;
};

/// The autoencoder of Stable Diffusion 3: latents to images and back (Rombach and others 2022,
/// section 3.1).
///
/// `image = decoder(latents / scaling_factor + shift_factor) / 2 + 1/2`, clamped to [0, 1]. Images
/// and latents cross its border in float32, whatever the dtype of the weights, which have the names
/// of diffusers' AutoencoderKL. Gradients pass.
/// @par Shape
/// images [B, 3, 8 H, 8 W] in [0, 1]; latents [B, 16, H, W], for the default options
class Vae : public torch::nn::Module {
 public:
  /// Builds the network without values; see load_weights() and vae_weights().
  /// @param options the settings
  /// @param parts what is needed of it
  /// @throws Error if an option is out of range
  explicit Vae(VaeOptions options, VaeParts parts = VaeParts::both)
      : options_(checked(std::move(options))) {
    if (parts == VaeParts::both) {
      encoder_ = place<VaeEncoder>(*this, "encoder", options_);
      if (options_.use_quant_conv) {
        const std::int64_t moments = 2 * options_.latent_channels;
        after_encoder_ = place<Conv2d>(*this, "quant_conv", moments, moments, 1);
      }
    }
    decoder_ = place<VaeDecoder>(*this, "decoder", options_);
    if (options_.use_post_quant_conv) {
      before_decoder_ = place<Conv2d>(*this, "post_quant_conv", options_.latent_channels,
                                      options_.latent_channels, 1);
    }
  }

  /// Images of latents.
  /// @param latents [B, latent_channels, H, W]
  /// @param at_once how many are decoded together: memory grows with it
  /// @return float32 [B, out_channels, H', W'] in [0, 1]
  /// @throws Error if the shape does not fit
  Tensor decode(const Tensor& latents, std::int64_t at_once = 1) const {
    expects_channels(latents, options_.latent_channels, 1, "latents");
    return in_parts(latents, at_once, [this](const Tensor& part) {
      const Tensor code = wide(part) / options_.scaling_factor + options_.shift_factor;
      return (decoded(code) / 2 + 0.5).clamp(0, 1);
    });
  }

  /// What the decoder makes of codes, in about [-1, 1] and not clamped.
  /// @param code [B, latent_channels, H, W]
  /// @return float32 [B, out_channels, H', W']
  Tensor decoded(const Tensor& code) const {
    const Tensor z = code.to(decoder_->parameters().front().scalar_type());
    return wide(decoder_->forward(before_decoder_ ? before_decoder_->forward(z) : z));
  }

  /// Mean and logarithm of the variance of the codes of images, along the channels.
  /// @param images [B, in_channels, H', W'] in [0, 1], sides multiples of the downscale
  /// @param at_once how many are encoded together: memory grows with it
  /// @return float32 [B, 2 latent_channels, H, W]
  /// @throws Error if the shape does not fit or there is no encoder
  Tensor moments(const Tensor& images, std::int64_t at_once = 1) const {
    if (!encoder_) throw Error("vae", "an encoder, for encoding", "a decoder alone");
    expects_channels(images, options_.in_channels, options_.downscale(), "images");
    return in_parts(images, at_once, [this](const Tensor& part) {
      const auto dtype = encoder_->parameters().front().scalar_type();
      const Tensor found = encoder_->forward((wide(part) * 2 - 1).to(dtype));
      return wide(after_encoder_ ? after_encoder_->forward(found) : found);
    });
  }

  /// The most likely latents of images: decode() gives about the images again.
  /// @copydetails moments
  Tensor encode(const Tensor& images, std::int64_t at_once = 1) const {
    return latents_of(moments(images, at_once).chunk(2, 1)[0]);
  }

  /// Latents of images, drawn as in training: mean plus standard deviation times noise.
  /// @param images as moments()
  /// @param generator one draw is made; a row an image
  /// @return float32 [B, latent_channels, H, W]
  Tensor sample(const Tensor& images, Generator& generator) const {
    const auto found = moments(images).chunk(2, 1);
    const Tensor deviation = (found[1].clamp(-30, 20) / 2).exp();
    return latents_of(found[0] + deviation * normal_like(found[0], generator));
  }

  /// The settings.
  const VaeOptions& options() const { return options_; }

 private:
  static VaeOptions checked(VaeOptions options) {
    expects(options.in_channels >= 1, "in_channels", "at least 1", options.in_channels);
    expects(options.out_channels >= 1, "out_channels", "at least 1", options.out_channels);
    expects(options.latent_channels >= 1, "latent_channels", "at least 1", options.latent_channels);
    expects(options.layers_per_block >= 1, "layers_per_block", "at least 1",
            options.layers_per_block);
    const auto& channels = options.block_out_channels;
    expects(!channels.empty() && channels.size() <= 16, "block_out_channels", "1 to 16 levels",
            channels.size());
    for (const std::int64_t count : channels) {
      expects(count >= 1, "block_out_channels", "at least 1 channel", count);
    }
    expects(options.scaling_factor != 0, "scaling_factor", "not 0", options.scaling_factor);
    return options;
  }

  static void expects_channels(const Tensor& x, std::int64_t channels, std::int64_t multiple,
                               const char* name) {
    const bool fits = x.defined() && x.dim() == 4 && x.numel() > 0 && x.size(1) == channels &&
                      x.size(2) % multiple == 0 && x.size(3) % multiple == 0;
    if (!fits) {
      const std::string sides =
          multiple == 1 ? "" : " with H and W multiples of " + shown(multiple);
      throw Error(name, "shape [B, " + shown(channels) + ", H, W]" + sides, shape_text(x));
    }
    expects(x.is_floating_point(), name, "a floating-point tensor", x.scalar_type());
  }

  Tensor latents_of(const Tensor& code) const {
    return (code - options_.shift_factor) * options_.scaling_factor;
  }

  VaeOptions options_;
  std::shared_ptr<VaeEncoder> encoder_;
  std::shared_ptr<VaeDecoder> decoder_;
  std::shared_ptr<Conv2d> after_encoder_, before_decoder_;
};

/// The weights of a published autoencoder under the names of Vae.
///
/// Old files name the parts of attention query, key, value and proj_attn.
/// @param weights as read
/// @param parts what is kept
inline std::map<std::string, Tensor> vae_weights(const std::map<std::string, Tensor>& weights,
                                                 VaeParts parts = VaeParts::both) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 4> names{
      {{".query.", ".to_q."},
       {".key.", ".to_k."},
       {".value.", ".to_v."},
       {".proj_attn.", ".to_out.0."}}};
  std::map<std::string, Tensor> result;
  for (const auto& [name, weight] : weights) {
    if (parts == VaeParts::decoder &&
        (name.starts_with("encoder.") || name.starts_with("quant_conv."))) {
      continue;
    }
    std::string renamed = name;
    for (const auto& [old_name, new_name] : names) {
      const auto found = renamed.find(old_name);
      if (found != std::string::npos) renamed.replace(found, old_name.size(), new_name);
    }
    result.emplace(std::move(renamed), weight);
  }
  return result;
}

}  // namespace contraflow
