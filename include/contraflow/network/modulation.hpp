#pragma once

/// @file
/// Pieces of transformers whose normalisations depend on time and condition, and positions in
/// images.

#include <cmath>
#include <memory>
#include <vector>

#include <torch/csrc/autograd/custom_function.h>

#include <contraflow/core/autograd.hpp>
#include <contraflow/core/tensor.hpp>
#include <contraflow/kernels/modulated_norm.hpp>
#include <contraflow/network/fused.hpp>
#include <contraflow/network/layers.hpp>

namespace contraflow {

namespace detail {

/// Layer normalisation without weights, in the form that modulated() wants.
struct Normalised {
  Tensor tokens;  ///< what is normalised
  Tensor result;  ///< undefined where normalisation and modulation are one kernel
};

inline constexpr double modulated_eps = 1e-6;

inline Normalised composed_normalised_layer(const Tensor& x) {
  return {x, at::layer_norm(x, {x.size(-1)}, {}, {}, modulated_eps)};
}
inline Normalised normalised_layer(const Tensor& x) {
  if (!takes_kernels(x)) return composed_normalised_layer(x);
  return {x.contiguous(), {}};
}

/// Whether the kernels take tokens [B, N, D] with these numbers [B, D] of each sample.
inline bool takes_kernels(const Tensor& tokens, const Tensor& rows) {
  return takes_kernels(tokens) && takes_kernels(rows) && tokens.dim() == 3 && rows.dim() == 2 &&
         rows.size(0) == tokens.size(0) && rows.size(1) == tokens.size(2);
}

inline kernels::TokenShape token_shape(const Tensor& x) {
  return {x.size(0), x.size(1), x.size(2)};
}

/// Numbers a sample [B, D], each sample's without gaps, such as a chunk of a wider tensor.
inline Tensor rows_without_gaps(const Tensor& x) { return x.stride(1) == 1 ? x : x.contiguous(); }
inline kernels::SampleRows<const float> sample_rows(const Tensor& x) {
  return {data_of<const float>(x), x.stride(0)};
}
inline kernels::SampleRows<float> gradient_rows(Tensor& x) {
  if (!x.defined()) return {};
  return {x.mutable_data_ptr<float>(), x.stride(0)};
}

inline Tensor modulated_norm(const Tensor& x, const Tensor& shift, const Tensor& scale,
                             Tensor moments) {
  Tensor out = at::empty_like(x);
  kernels::modulated_norm({token_shape(x), data_of<const float>(x), sample_rows(shift),
                           sample_rows(scale), out.mutable_data_ptr<float>(),
                           moments.defined() ? moments.mutable_data_ptr<float>() : nullptr},
                          float(modulated_eps), rows_loop(x.size(2)));
  return out;
}

class ModulatedNorm : public torch::autograd::Function<ModulatedNorm> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x,
                        const Tensor& shift, const Tensor& scale) {
    const Tensor moments = at::empty({x.size(0), x.size(1), 2}, x.options());
    context->save_for_backward({x, scale, moments});
    return modulated_norm(x, shift, scale, moments);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list upstream) {
    expects_first_derivative();
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &scale = saved[1], &moments = saved[2];
    const Tensor dout = upstream[0].contiguous();
    Tensor dx = at::empty_like(x), dshift, dscale;
    if (context->needs_input_grad(1) || context->needs_input_grad(2)) {
      dshift = at::empty(scale.sizes(), scale.options());
      dscale = at::empty(scale.sizes(), scale.options());
    }
    kernels::modulated_norm_backward(
        {token_shape(x), data_of<const float>(x), data_of<const float>(moments), sample_rows(scale),
         data_of<const float>(dout), dx.mutable_data_ptr<float>(), gradient_rows(dshift),
         gradient_rows(dscale)},
        rows_loop(x.size(1) * x.size(2)));
    return {dx, dshift, dscale};
  }
};

/// `LN(x) (1 + scale) + shift`, with a shift and a scale [B, D] a sample. Fused, it has first
/// derivatives in reverse mode only.
inline Tensor modulated(const Normalised& x, const Tensor& shift, const Tensor& scale) {
  if (x.result.defined()) {
    return at::addcmul(shift.unsqueeze(1), x.result, scale.unsqueeze(1) + 1);
  }
  if (!takes_kernels(x.tokens, shift) || !takes_kernels(x.tokens, scale)) {
    return modulated(composed_normalised_layer(x.tokens), shift, scale);
  }
  const Tensor b = rows_without_gaps(shift), s = rows_without_gaps(scale);
  if (needs_gradient({x.tokens, b, s})) return ModulatedNorm::apply(x.tokens, b, s);
  return modulated_norm(x.tokens, b, s, {});
}

inline Tensor gated_residual(const Tensor& x, const Tensor& gate, const Tensor& y) {
  Tensor out = at::empty_like(x);
  kernels::gated_residual({token_shape(x), data_of<const float>(x), sample_rows(gate),
                           data_of<const float>(y), out.mutable_data_ptr<float>()},
                          rows_loop(x.size(2)));
  return out;
}

class GatedResidual : public torch::autograd::Function<GatedResidual> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x,
                        const Tensor& gate, const Tensor& y) {
    context->save_for_backward({gate, y});
    return gated_residual(x, gate, y);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list upstream) {
    expects_first_derivative();
    const auto saved = context->get_saved_variables();
    const Tensor &gate = saved[0], &y = saved[1];
    const Tensor dout = upstream[0].contiguous();
    Tensor dy = at::empty_like(y), dgate;
    if (context->needs_input_grad(1)) dgate = at::empty(gate.sizes(), gate.options());
    kernels::gated_residual_backward(
        {token_shape(y), sample_rows(gate), data_of<const float>(y), data_of<const float>(dout),
         dy.mutable_data_ptr<float>(), gradient_rows(dgate)},
        rows_loop(y.size(1) * y.size(2)));
    return {dout, dgate, dy};
  }
};

/// `x + gate y`, with a gate [B, D] a sample. Fused, it has first derivatives in reverse mode only.
inline Tensor gated(const Tensor& x, const Tensor& gate, const Tensor& y) {
  if (!takes_kernels(x, gate) || !takes_kernels(y) || y.sizes() != x.sizes()) {
    return at::addcmul(x, gate.unsqueeze(1), y);
  }
  const Tensor plain = x.contiguous(), rows = rows_without_gaps(gate), change = y.contiguous();
  if (needs_gradient({plain, rows, change})) return GatedResidual::apply(plain, rows, change);
  return gated_residual(plain, rows, change);
}

/// The numbers of a block that depend on time and prompt: a linear layer, cut in chunks.
class Modulation : public torch::nn::Module {
 public:
  Modulation(std::int64_t width, std::int64_t chunks)
      : chunks_(chunks), linear_(place<LoraLinear>(*this, "linear", width, chunks * width)) {}
  std::vector<Tensor> forward(const Tensor& silu_of_embedding) const {
    return linear_->forward(silu_of_embedding).chunk(chunks_, 1);
  }

 private:
  std::int64_t chunks_;
  std::shared_ptr<LoraLinear> linear_;
};

}  // namespace detail

/// Positions in a square of tokens: sine and cosine of the column in the first half of the
/// channels, of the row in the second (Peebles and Xie 2023, as published).
/// @param side of the square, in tokens
/// @param spacing coordinates are indices over this
/// @param width channels of a token, a multiple of 4
/// @return float32 [1, side^2, width], computed in float64
inline Tensor position_grid(std::int64_t side, double spacing, std::int64_t width) {
  const std::int64_t quarter = width / 4;
  // The coordinate is rounded to float32 before its angles are taken, as published.
  const Tensor axis = (at::arange(side, at::kFloat) / spacing).to(at::kDouble);
  const Tensor omega = at::pow(10000.0, -at::arange(quarter, at::kDouble) / double(quarter));
  const Tensor angle = at::outer(axis, omega);
  const Tensor one = at::cat({angle.sin(), angle.cos()}, 1).to(at::kFloat);
  const Tensor columns = one.unsqueeze(0).expand({side, side, 2 * quarter});
  const Tensor rows = one.unsqueeze(1).expand({side, side, 2 * quarter});
  return at::cat({columns, rows}, 2).reshape({1, side * side, 4 * quarter});
}

}  // namespace contraflow
