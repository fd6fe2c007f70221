#pragma once

/// @file
/// Linear layers, alone and with activations between them: one kernel on the CPU in float32,
/// LibTorch's operations elsewhere.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <torch/csrc/autograd/custom_function.h>

#include <contraflow/core/autograd.hpp>
#include <contraflow/core/tensor.hpp>
#include <contraflow/kernels/linear_layers.hpp>
#include <contraflow/network/activation.hpp>
#include <contraflow/network/fused.hpp>

namespace contraflow {

/// Weight and bias of a linear layer.
struct LinearWeights {
  Tensor weight;     ///< [out, in]
  Tensor bias = {};  ///< [out]; undefined for none
};

/// What else a multilayer perceptron is given.
struct MlpInputs {
  Tensor added = {};  ///< to what the first layer gives, of that shape; undefined for nothing
  /// g [1, n]; x times its inner product with the last n numbers of x is added to what comes out,
  /// for the first numbers of x, as many as come out; undefined for no gate.
  Tensor gate = {};
};

namespace detail {

// The first of the tensors of FusedMlp are x, what is added and the gate.
inline constexpr std::size_t before_layers = 3;

/// The widest layer whose weights stay in the cache beside a block of rows.
inline constexpr std::int64_t most_fused_width = 512;

inline std::int64_t rows_of(const Tensor& x) { return x.numel() / x.size(-1); }

/// The kernel of x, what is added, the gate, and weights and biases in turn; what is added, the
/// gate and biases may be undefined.
template <class Activation>
kernels::Mlp<Activation> mlp_kernel(at::TensorList all) {
  std::vector<kernels::MlpLayer> layers;
  for (std::size_t i = before_layers; i < all.size(); i += 2) {
    layers.push_back({numbers_of(all[i]), numbers_of(all[i + 1]), all[i].size(1), all[i].size(0)});
  }
  const Tensor& gate = all[2];
  return kernels::Mlp<Activation>(std::move(layers),
                                  {numbers_of(gate), gate.defined() ? gate.numel() : 0});
}

template <class Activation>
Tensor run_mlp(const kernels::Mlp<Activation>& mlp, at::TensorList tensors, Tensor saved) {
  auto shape = tensors[0].sizes().vec();
  shape.back() = tensors[tensors.size() - 2].size(0);
  Tensor v = at::empty(shape, tensors[0].options().requires_grad(false));
  mlp.forward({rows_of(tensors[0]), numbers_of(tensors[0]), numbers_of(tensors[1]), room_of(v),
               room_of(saved)},
              TorchLoop{});
  return v;
}

/// Of the tensors that mlp_kernel() takes, `count` in number, those that are defined, at their
/// places.
template <class Activation>
class FusedMlp : public torch::autograd::Function<FusedMlp<Activation>> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, std::int64_t count,
                        const std::vector<std::int64_t>& places, at::TensorList tensors) {
    const std::vector<Tensor> all = spread(tensors, places, std::size_t(count));
    const auto mlp = mlp_kernel<Activation>(all);
    const Tensor& x = all[0];
    const Tensor saved = at::empty({mlp.saved_size(rows_of(x))}, x.options().requires_grad(false));
    std::vector<Tensor> kept = tensors.vec();
    kept.push_back(saved);
    context->save_for_backward(std::move(kept));
    context->saved_data["count"] = count;
    context->saved_data["places"] = places;
    return run_mlp(mlp, all, saved);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list upstream) {
    expects_first_derivative();
    auto given = context->get_saved_variables();
    const Tensor saved = given.back();
    given.pop_back();
    const std::vector<std::int64_t> places = context->saved_data["places"].toIntVector();
    const auto count = std::size_t(context->saved_data["count"].toInt());
    const std::vector<Tensor> all = spread(given, places, count);
    const std::vector<bool> wanted = wanted_of(*context, places);

    // The first two arguments of forward are no tensors, and have no gradients.
    torch::autograd::variable_list result(2), gradients(count);
    for (std::size_t i = 0; i < given.size(); ++i) {
      if (wanted[i]) gradients[std::size_t(places[i])] = at::empty_like(given[i]);
      result.push_back(gradients[std::size_t(places[i])]);
    }
    std::vector<kernels::MlpLayerGradient> layers;
    const bool wants_layers = gradients[before_layers].defined();
    for (std::size_t i = before_layers; wants_layers && i < count; i += 2) {
      layers.push_back({room_of(gradients[i]), room_of(gradients[i + 1])});
    }
    const Tensor dv = upstream[0].contiguous();
    mlp_kernel<Activation>(all).backward(
        {rows_of(all[0]), numbers_of(all[0]), numbers_of(saved), numbers_of(dv),
         room_of(gradients[0]), room_of(gradients[1]), room_of(gradients[2]), std::move(layers)},
        TorchLoop{});
    return result;
  }

 private:
  /// Which of the given tensors the kernel makes gradients of: those of all layers, or of none.
  static std::vector<bool> wanted_of(torch::autograd::AutogradContext& context,
                                     const std::vector<std::int64_t>& places) {
    std::vector<bool> wanted(places.size());
    bool wants_layers = false;
    for (std::size_t i = 0; i < places.size(); ++i) {
      wanted[i] = context.needs_input_grad(i);
      wants_layers |= std::size_t(places[i]) >= before_layers && wanted[i];
    }
    for (std::size_t i = 0; i < places.size(); ++i) {
      if (std::size_t(places[i]) >= before_layers) wanted[i] = wants_layers;
    }
    return wanted;
  }
};

/// Whether a kernel takes a layer of @p in features.
inline bool takes_layer(const LinearWeights& layer, std::int64_t in) {
  const Tensor &weight = layer.weight, &bias = layer.bias;
  if (!takes_kernels(weight) || weight.dim() != 2 || weight.size(1) != in) return false;
  if (in > most_fused_width || weight.size(0) > most_fused_width) return false;
  return !bias.defined() ||
         (takes_kernels(bias) && bias.dim() == 1 && bias.size(0) == weight.size(0));
}

/// Whether mlp() is one kernel for these tensors: a rule of shapes, dtypes and the processor that
/// is compiled for, so that a resumed run has the bits of an undisturbed one.
inline bool is_fused_mlp(const Tensor& x, const std::vector<LinearWeights>& layers,
                         const MlpInputs& inputs) {
  if (!kernels::has_fast_products || !takes_kernels(x) || x.dim() < 2) return false;
  std::int64_t in = x.size(-1);
  for (const LinearWeights& layer : layers) {
    if (!takes_layer(layer, in)) return false;
    in = layer.weight.size(0);
  }
  const Tensor &added = inputs.added, &gate = inputs.gate;
  std::vector<std::int64_t> behind_first = x.sizes().vec();
  behind_first.back() = layers.front().weight.size(0);
  if (added.defined() && !(takes_kernels(added) && added.sizes() == behind_first)) return false;
  const std::int64_t most = x.size(-1);
  return !gate.defined() || (takes_kernels(gate) && gate.dim() == 2 && gate.size(0) == 1 &&
                             gate.size(1) <= most && in <= most);
}

template <class Activation>
Tensor fused_mlp(const Tensor& x, const std::vector<LinearWeights>& layers,
                 const MlpInputs& inputs) {
  const auto plain = [](const Tensor& t) { return t.defined() ? t.contiguous() : t; };
  std::vector<Tensor> tensors{plain(x), plain(inputs.added), plain(inputs.gate)};
  for (const LinearWeights& layer : layers) {
    tensors.push_back(plain(layer.weight));
    tensors.push_back(plain(layer.bias));
  }
  bool differentiable = false;
  for (const Tensor& tensor : tensors) differentiable |= needs_gradient({tensor});
  if (!differentiable) return run_mlp(mlp_kernel<Activation>(tensors), tensors, {});
  const DefinedTensors defined(tensors);
  return FusedMlp<Activation>::apply(std::int64_t(tensors.size()), defined.places,
                                     at::TensorList(defined.tensors));
}

template <class Activation>
Tensor composed_mlp(const Tensor& x, const std::vector<LinearWeights>& layers,
                    const MlpInputs& inputs) {
  Tensor h = at::linear(x, layers[0].weight, layers[0].bias);
  if (inputs.added.defined()) h = h + inputs.added;
  for (std::size_t i = 1; i < layers.size(); ++i) {
    h = activation_of<Activation>(std::move(h));
    h = at::linear(h, layers[i].weight, layers[i].bias);
  }
  if (!inputs.gate.defined()) return h;
  const std::int64_t size = inputs.gate.size(1);
  const Tensor opening =
      at::linear(x.narrow(-1, x.size(-1) - size, size).contiguous(), inputs.gate);
  return at::addcmul(h, x.narrow(-1, 0, h.size(-1)), opening);
}

}  // namespace detail

/// Linear layers with an activation between them.
///
/// On the CPU in float32 they are one kernel forward and one backward, and a block of rows goes
/// through all of them while it is in the cache: where the program is compiled for a processor that
/// multiplies and adds packs of eight numbers at once (`-march=native`, `-march=x86-64-v3`) and no
/// layer is wider than 512. Threads take parts of about a millisecond each, so that small networks
/// run on the calling thread alone; bits do not depend on the number of threads. The fused form has
/// first derivatives in reverse mode only; see ComposedOnly.
/// @tparam Activation kernels::Silu or kernels::GeluTanh
/// @param x [..., in]
/// @param layers at least one, each taking what the one before gives
/// @param inputs what else there is
/// @return [..., out of the last layer]
template <class Activation>
Tensor mlp(const Tensor& x, const std::vector<LinearWeights>& layers,
           const MlpInputs& inputs = {}) {
  if (detail::is_fused_mlp(x, layers, inputs)) {
    return detail::fused_mlp<Activation>(x, layers, inputs);
  }
  return detail::composed_mlp<Activation>(x, layers, inputs);
}

/// `x W' + b`: a kernel where mlp() of one layer is one, LibTorch's operation elsewhere.
/// @param x [..., in]
/// @param layer weight and bias
/// @return [..., out]
inline Tensor linear(const Tensor& x, const LinearWeights& layer) {
  return mlp<kernels::Silu>(x, {layer});
}

}  // namespace contraflow
