#pragma once

/// @file
/// Activations: fused on the CPU in float32, LibTorch's elsewhere.

#include <type_traits>
#include <utility>

#include <torch/csrc/autograd/custom_function.h>

#include <contraflow/core/autograd.hpp>
#include <contraflow/core/tensor.hpp>
#include <contraflow/kernels/gelu_silu.hpp>
#include <contraflow/network/fused.hpp>

namespace contraflow {

namespace detail {

inline TorchLoop activation_loop() { return rows_loop(kernels::activation_block); }

template <class Kernel>
Tensor activated(const Tensor& x, Tensor out) {
  kernels::activate<Kernel>(data_of<const float>(x), out.mutable_data_ptr<float>(), x.numel(),
                            activation_loop());
  return out;
}

template <class Kernel>
class Activated : public torch::autograd::Function<Activated<Kernel>> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x) {
    context->save_for_backward({x});
    return activated<Kernel>(x, at::empty_like(x));
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list upstream) {
    expects_first_derivative();
    const Tensor x = context->get_saved_variables()[0];
    const Tensor dout = upstream[0].contiguous();
    Tensor dx = at::empty_like(x);
    kernels::activate_backward<Kernel>(data_of<const float>(x), data_of<const float>(dout),
                                       dx.mutable_data_ptr<float>(), x.numel(), activation_loop());
    return {dx};
  }
};

template <class Kernel>
Tensor fused_activation(const Tensor& x) {
  const Tensor plain = x.contiguous();
  if (needs_gradient({plain})) return Activated<Kernel>::apply(plain);
  return activated<Kernel>(plain, plain);
}

}  // namespace detail

/// GELU in its form with tanh, see kernels::GeluTanh.
///
/// The fused form has first derivatives in reverse mode only; see ComposedOnly.
/// @param x any shape; given away: overwritten where no gradient is wanted
/// @return shape of x
inline Tensor gelu_tanh(Tensor&& x) {
  if (!detail::takes_kernels(x)) return at::gelu(x, "tanh");
  return detail::fused_activation<kernels::GeluTanh>(x);
}

/// `x sigmoid(x)`.
///
/// The fused form has first derivatives in reverse mode only; see ComposedOnly.
/// @param x any shape; given away: overwritten where no gradient is wanted
/// @return shape of x
inline Tensor silu(Tensor&& x) {
  if (!detail::takes_kernels(x)) return at::silu(x);
  return detail::fused_activation<kernels::Silu>(x);
}

/// gelu_tanh() or silu(), by its kernel.
/// @tparam Activation kernels::GeluTanh or kernels::Silu
/// @param x any shape; given away
/// @return shape of x
template <class Activation>
Tensor activation_of(Tensor&& x) {
  if constexpr (std::is_same_v<Activation, kernels::Silu>) {
    return silu(std::move(x));
  } else {
    static_assert(std::is_same_v<Activation, kernels::GeluTanh>);
    return gelu_tanh(std::move(x));
  }
}

}  // namespace contraflow
