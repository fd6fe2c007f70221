#pragma once

/// @file
/// Weights of linear layers in 8 bits: for bases that memory does not hold otherwise.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include <torch/csrc/autograd/custom_function.h>

#include <contraflow/core/tensor.hpp>
#include <contraflow/network/placing.hpp>

namespace contraflow {

/// The weight of a linear layer in 8 bits: `W = s q`, a whole number from -127 to 127 for each
/// element and a scale for each output (Krishnamoorthi 2018, section 2.2).
///
/// A base that is frozen needs its weights in every pass and never their gradients: half the memory
/// of bfloat16 then holds it, and what is computed stays in floating point.
/// @par Shape
/// values int8 [out, in], scale float32 [out]
struct Int8Weight {
  Tensor values;                      ///< q
  Tensor scale;                       ///< s, at least 0
  at::ScalarType dtype = at::kFloat;  ///< floating-point type of the weight that it stands for
};

namespace detail {

/// Calls `f(first, count)` for the rows of a matrix, as many at a time as take 16 MiB in float32:
/// what is computed on the way is small beside the matrix.
template <class F>
void for_blocks_of_rows(const Tensor& matrix, F&& f) {
  constexpr std::int64_t numbers = 1 << 22;
  const std::int64_t rows = matrix.size(0);
  const std::int64_t block =
      std::max<std::int64_t>(1, numbers / std::max<std::int64_t>(1, matrix.size(1)));
  for (std::int64_t first = 0; first < rows; first += block) {
    f(first, std::min(block, rows - first));
  }
}

}  // namespace detail

/// A weight in 8 bits: `s = max |W| / 127` over the inputs of an output, `q = round(W / s)`.
///
/// An element is off by half its output's scale at most; an output whose weights are all zero stays
/// so. A weight that has no values yet has none in 8 bits.
/// @param weight floating-point [out, in]
/// @param name of the weight in errors
/// @throws Error if that is no such weight, or holds NaN or infinity
inline Int8Weight quantised(const Tensor& weight, const std::string& name = "weight") {
  if (!weight.defined() || weight.dim() != 2 || !weight.is_floating_point()) {
    throw Error(name, "a floating-point weight [out, in]", shape_text(weight));
  }
  const at::NoGradGuard no_gradient;
  const auto options = weight.options().requires_grad(false);
  if (is_unfilled(weight)) {
    return {at::zeros({}, options.dtype(at::kChar)).expand(weight.sizes()),
            unfilled({weight.size(0)}).to(weight.device()), weight.scalar_type()};
  }
  const Int8Weight result{at::empty(weight.sizes(), options.dtype(at::kChar)),
                          at::empty({weight.size(0)}, options.dtype(at::kFloat)),
                          weight.scalar_type()};
  detail::for_blocks_of_rows(weight, [&](std::int64_t first, std::int64_t count) {
    const Tensor rows = wide(weight.narrow(0, first, count));
    const Tensor scale = (rows.abs().amax(1, /*keepdim=*/true) / 127).to(at::kFloat);
    expects(scale.isfinite().all().item<bool>(), name.c_str(), "finite numbers", "NaN or infinity");
    const Tensor divisor = scale.masked_fill(scale == 0, 1);
    result.values.narrow(0, first, count).copy_((rows / divisor).round_().clamp_(-127, 127));
    result.scale.narrow(0, first, count).copy_(scale.squeeze(1));
  });
  return result;
}

/// The weight that one in 8 bits stands for.
/// @param weight values and scale
/// @param dtype wanted: multiplied in float32 or wider, and rounded once
/// @return [out, in]
inline Tensor dequantised(const Int8Weight& weight, at::ScalarType dtype) {
  const at::NoGradGuard no_gradient;
  const auto full = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor result = at::empty(weight.values.sizes(), weight.values.options().dtype(dtype));
  detail::for_blocks_of_rows(result, [&](std::int64_t first, std::int64_t count) {
    const Tensor scale = weight.scale.narrow(0, first, count).to(full).unsqueeze(1);
    result.narrow(0, first, count)
        .copy_(weight.values.narrow(0, first, count).to(full).mul_(scale));
  });
  return result;
}
/// The same in the type of the weight that it stands for.
inline Tensor dequantised(const Int8Weight& weight) { return dequantised(weight, weight.dtype); }

namespace detail {

/// Keeps the weight in 8 bits between the passes, and nothing of the input: both passes compute it
/// again.
class Int8Linear : public torch::autograd::Function<Int8Linear> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x,
                        const std::optional<Tensor>& bias, const Int8Weight& weight) {
    context->save_for_backward({weight.values, weight.scale});
    context->saved_data["has_bias"] = bias.has_value();
    return at::linear(x, dequantised(weight), bias);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list upstream) {
    const auto saved = context->get_saved_variables();
    const Tensor& dy = upstream[0];
    Tensor dx, dbias;
    if (context->needs_input_grad(0)) {
      dx = at::matmul(dy, dequantised({saved[0], saved[1]}, dy.scalar_type()));
    }
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(1)) {
      dbias = dy.reshape({-1, dy.size(-1)}).sum(0);
    }
    return {dx, dbias, {}};
  }
};

}  // namespace detail

/// `x W' + b` with a weight in 8 bits, which is computed for the call and forgotten behind it; the
/// backward pass computes it again. Gradients reach x and b, in reverse mode.
/// @param x [..., in], in the dtype of the weight
/// @param weight in 8 bits
/// @param bias [out]; undefined for none
/// @return [..., out]
inline Tensor int8_linear(const Tensor& x, const Int8Weight& weight, const Tensor& bias = {}) {
  const auto given = bias.defined() ? std::optional(bias) : std::nullopt;
  return detail::Int8Linear::apply(x, given, weight);
}

}  // namespace contraflow
