#pragma once

/// @file
/// Layers that several networks are built of.

#include <cmath>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

#include <contraflow/core/tensor.hpp>
#include <contraflow/network/int8.hpp>
#include <contraflow/network/linear.hpp>
#include <contraflow/network/placing.hpp>

namespace contraflow {

/// Which adapter the layers of a network use at the moment; shared by all of them.
struct AdapterSelection {
  std::optional<std::size_t> active = {};  ///< index of an adapter; unset: the base alone
};

/// Calls @p f while an adapter, or the base alone, is selected; then what was before is again.
template <class F>
auto with_selected(AdapterSelection& selection, std::optional<std::size_t> adapter, F&& f) {
  struct Restore {
    AdapterSelection& selection;
    std::optional<std::size_t> before;
    ~Restore() { selection.active = before; }
  } restore{selection, std::exchange(selection.active, adapter)};
  return f();
}

/// Makes one thread use an adapter, or the base alone, whatever is selected, for its lifetime.
///
/// A backward pass that computes a layer again needs the adapter of its own forward pass; several
/// threads may do so at once, and a selection is shared by all of them.
class SelectedHere {
 public:
  /// @param selection that layers follow
  /// @param adapter index; unset: the base alone
  SelectedHere(const AdapterSelection& selection, std::optional<std::size_t> adapter)
      : selection_(&selection), adapter_(adapter), outer_(std::exchange(innermost_, this)) {}
  ~SelectedHere() { innermost_ = outer_; }
  SelectedHere(const SelectedHere&) = delete;
  SelectedHere& operator=(const SelectedHere&) = delete;

  /// The adapter that layers which follow @p selection use on this thread.
  static std::optional<std::size_t> of(const AdapterSelection& selection) {
    for (const SelectedHere* scope = innermost_; scope != nullptr; scope = scope->outer_) {
      if (scope->selection_ == &selection) return scope->adapter_;
    }
    return selection.active;
  }

 private:
  inline static thread_local const SelectedHere* innermost_ = nullptr;
  const AdapterSelection* selection_;
  std::optional<std::size_t> adapter_;
  const SelectedHere* outer_;
};

/// A low-rank change of a weight: `scale up down` (Hu and others 2021, equation 3).
/// @par Shape
/// down [r, in], up [out, r]
struct LowRank {
  Tensor down;       ///< A
  Tensor up;         ///< B
  double scale = 0;  ///< alpha / r, times what the user asks for
};

/// A linear layer that has room for low-rank adapters.
///
/// `y = x W' + b + scale (x A') B'` with the active adapter, `y = x W' + b` without. The base may
/// be in half precision under an adapter in float32, or keep its weight in 8 bits. Adapters are not
/// parameters of the module, so the names of a published state dict stay as they are;
/// contraflow::Lora owns them.
/// @par Shape
/// x [..., in]; result [..., out]
class LoraLinear : public torch::nn::Module {
 public:
  /// @param in size of the last dimension of the input
  /// @param out size of the last dimension of the result
  /// @param has_bias whether there is a b
  explicit LoraLinear(std::int64_t in, std::int64_t out, bool has_bias = true) {
    weight_ = register_parameter("weight", unfilled({out, in}));
    if (has_bias) bias_ = register_parameter("bias", unfilled({out}));
  }

  /// The layer, in the dtype of its weights.
  Tensor forward(const Tensor& x) const {
    const Tensor base = int8_ ? int8_linear(x, *int8_, bias_) : linear(x, weights());
    const LowRank* adapter = active();
    if (adapter == nullptr) return base;
    const Tensor narrow = linear(x.to(adapter->down.scalar_type()), {adapter->down});
    return at::add(base, linear(narrow, {adapter->up}).to(base.scalar_type()), adapter->scale);
  }

  /// [out, in]; whole numbers where it is kept in 8 bits.
  const Tensor& weight() const { return int8_ ? int8_->values : weight_; }
  /// Floating-point type that the layer computes in.
  at::ScalarType dtype() const { return int8_ ? int8_->dtype : weight_.scalar_type(); }
  /// Weight and bias of a layer that is_plain().
  LinearWeights weights() const { return {weight_, bias_}; }
  /// Whether the layer is a weight in floating point and no adapter.
  bool is_plain() const { return !int8_ && active() == nullptr; }

  /// The weight in 8 bits, where it is kept so.
  const std::optional<Int8Weight>& int8() const { return int8_; }
  /// Keeps the weight in 8 bits from now on: the parameter "weight" is gone, the buffers "weight"
  /// and "weight_scale" stand in its place, and the bias is frozen.
  void keep_in_int8(const Int8Weight& weight) {
    if (int8_) {
      int8_->values.set_data(weight.values);
      int8_->scale.set_data(weight.scale);
      int8_->dtype = weight.dtype;
      return;
    }
    parameters_.erase("weight");
    weight_ = Tensor();
    if (bias_.defined()) bias_.set_requires_grad(false);
    // Tensors of their own: those of another layer may have other values given.
    int8_ = Int8Weight{register_buffer("weight", weight.values.detach()),
                       register_buffer("weight_scale", weight.scale.detach()), weight.dtype};
  }

  /// The adapters by index; those that this layer lacks have no tensors.
  std::vector<LowRank>& adapters() { return adapters_; }
  /// Makes the layer use what is selected in @p selection.
  void follow(std::shared_ptr<AdapterSelection> selection) { selection_ = std::move(selection); }
  /// What the layer follows; null where it has never had an adapter.
  const std::shared_ptr<AdapterSelection>& selection() const { return selection_; }
  /// The adapter in use; null for none.
  const LowRank* active() const {
    if (!selection_) return nullptr;
    const auto selected = SelectedHere::of(*selection_);
    if (!selected || *selected >= adapters_.size()) return nullptr;
    const LowRank& adapter = adapters_[*selected];
    return adapter.down.defined() && adapter.scale != 0 ? &adapter : nullptr;
  }

 private:
  Tensor weight_, bias_;
  std::optional<Int8Weight> int8_;
  std::vector<LowRank> adapters_;
  std::shared_ptr<AdapterSelection> selection_;
};

namespace detail {

inline Tensor rms_normalised(const Tensor& x, const Tensor& weight, double eps) {
  const Tensor full = wide(x);
  const Tensor scale = full.square().mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
  return (full * scale).to(weight.scalar_type()) * weight;
}

}  // namespace detail

/// Root-mean-square normalisation of the last dimension: `x / sqrt(mean(x^2) + eps) weight` (Zhang
/// and Sennrich 2019, equation 4), the mean in float32; rounded to the dtype of a half-precision
/// weight before it is multiplied, as published.
/// @par Shape
/// x [..., size]; result as x
class RmsNorm : public torch::nn::Module {
 public:
  /// @param size of the last dimension
  /// @param eps above 0
  explicit RmsNorm(std::int64_t size, double eps = 1e-6) : eps_(eps) {
    weight_ = register_parameter("weight", unfilled({size}));
  }

  /// The normalised x.
  Tensor forward(const Tensor& x) const { return detail::rms_normalised(x, weight_, eps_); }

  /// [size].
  const Tensor& weight() const { return weight_; }

 private:
  double eps_;
  Tensor weight_;
};

/// Layer normalisation of the last dimension, with a weight and a bias.
/// @par Shape
/// x [..., size]; result as x
class LayerNorm : public torch::nn::Module {
 public:
  /// @param size of the last dimension
  /// @param eps above 0
  explicit LayerNorm(std::int64_t size, double eps) : eps_(eps) {
    weight_ = register_parameter("weight", unfilled({size}));
    bias_ = register_parameter("bias", unfilled({size}));
  }
  /// The normalised x.
  Tensor forward(const Tensor& x) const {
    return at::layer_norm(x, weight_.sizes(), weight_, bias_, eps_);
  }

 private:
  double eps_;
  Tensor weight_, bias_;
};

/// Normalisation of groups of channels, with a weight and a bias.
/// @par Shape
/// x [B, channels, ...]; result as x
class GroupNorm : public torch::nn::Module {
 public:
  /// @param groups divides @p channels
  /// @param channels second dimension of the input
  /// @param eps above 0
  GroupNorm(std::int64_t groups, std::int64_t channels, double eps) : groups_(groups), eps_(eps) {
    expects(groups >= 1 && channels % groups == 0, "groups", "a divisor of the channels", groups);
    weight_ = register_parameter("weight", unfilled({channels}));
    bias_ = register_parameter("bias", unfilled({channels}));
  }
  /// The normalised x.
  Tensor forward(const Tensor& x) const { return at::group_norm(x, groups_, weight_, bias_, eps_); }

 private:
  std::int64_t groups_;
  double eps_;
  Tensor weight_, bias_;
};

/// A convolution of images.
/// @par Shape
/// x [B, in, H, W]; result [B, out, H', W']
class Conv2d : public torch::nn::Module {
 public:
  /// @param in channels of the input
  /// @param out channels of the result
  /// @param size of the square kernel
  /// @param stride between its positions
  /// @param padding zeros around the image
  /// @param has_bias whether a bias is added
  Conv2d(std::int64_t in, std::int64_t out, std::int64_t size, std::int64_t stride = 1,
         std::int64_t padding = 0, bool has_bias = true)
      : stride_(stride), padding_(padding) {
    weight_ = register_parameter("weight", unfilled({out, in, size, size}));
    if (has_bias) bias_ = register_parameter("bias", unfilled({out}));
  }
  /// The convolved x.
  Tensor forward(const Tensor& x) const { return at::conv2d(x, weight_, bias_, stride_, padding_); }

 private:
  std::int64_t stride_, padding_;
  Tensor weight_, bias_;
};

/// A table of vectors.
/// @par Shape
/// ids int64 [...]; result [..., size]
class Embedding : public torch::nn::Module {
 public:
  /// @param count number of vectors
  /// @param size of each
  Embedding(std::int64_t count, std::int64_t size) {
    weight_ = register_parameter("weight", unfilled({count, size}));
  }
  /// The vectors of @p ids, which lie in [0, count).
  Tensor forward(const Tensor& ids) const { return at::embedding(weight_, ids); }
  /// The table [count, size].
  const Tensor& weight() const { return weight_; }

 private:
  Tensor weight_;
};

/// @p x [B, N, heads D] as [B, heads, N, D].
inline Tensor split_heads(const Tensor& x, std::int64_t heads) {
  return x.unflatten(-1, {heads, -1}).transpose(1, 2);
}
/// @p x [B, heads, N, D] as [B, N, heads D].
inline Tensor join_heads(const Tensor& x) { return x.transpose(1, 2).flatten(2); }

/// Sinusoidal features of time: `[cos(t f_k) | sin(t f_k)]` with `f_k = exp(-ln(10000) k / (n /
/// 2))` (Vaswani and others 2017, section 3.5, in the order of Stable Diffusion 3).
/// @param t float32 [B], in the network's own units
/// @param features n, even
/// @return float32 [B, n]
inline Tensor sinusoid(const Tensor& t, std::int64_t features) {
  const std::int64_t half = features / 2;
  // Multiplied, then divided, as published: at t = 1000 the last bit of a frequency is seen.
  const Tensor exponent = at::arange(half, at::dtype(at::kFloat).device(t.device())) *
                          -std::log(10000.0) / double(half);
  const Tensor angle = t.to(at::kFloat).unsqueeze(1) * exponent.exp();
  return at::cat({angle.cos(), angle.sin()}, 1);
}

namespace detail {

/// Two layers with an activation between them; one operation where both are plain.
template <class Activation>
Tensor two_layers(const Tensor& x, const LoraLinear& first, const LoraLinear& second) {
  if (first.is_plain() && second.is_plain()) {
    return mlp<Activation>(x, {first.weights(), second.weights()});
  }
  return second.forward(activation_of<Activation>(first.forward(x)));
}

}  // namespace detail

/// Two linear layers with a SiLU between them: how time and pooled prompts are embedded.
/// @par Shape
/// x [B, in]; result [B, out]
class EmbeddingMlp : public torch::nn::Module {
 public:
  /// @param in features
  /// @param out size of the embedding
  EmbeddingMlp(std::int64_t in, std::int64_t out)
      : first_(place<LoraLinear>(*this, "linear_1", in, out)),
        second_(place<LoraLinear>(*this, "linear_2", out, out)) {}
  /// The embedding.
  Tensor forward(const Tensor& x) const {
    return detail::two_layers<kernels::Silu>(x, *first_, *second_);
  }

 private:
  std::shared_ptr<LoraLinear> first_, second_;
};

/// Two linear layers with a GELU (tanh) between them, four times as wide inside.
/// @par Shape
/// x [..., size]; result as x
class FeedForward : public torch::nn::Module {
 public:
  /// @param size of the last dimension
  explicit FeedForward(std::int64_t size)
      : widen_(place<LoraLinear>(*this, "net.0.proj", size, 4 * size)),
        narrow_(place<LoraLinear>(*this, "net.2", 4 * size, size)) {}
  /// The layer.
  Tensor forward(const Tensor& x) const {
    return detail::two_layers<kernels::GeluTanh>(x, *widen_, *narrow_);
  }

 private:
  std::shared_ptr<LoraLinear> widen_, narrow_;
};

}  // namespace contraflow
