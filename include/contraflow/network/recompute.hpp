#pragma once

/// @file
/// Activations that are computed again instead of kept.

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <contraflow/core/autograd.hpp>
#include <contraflow/network/autocast.hpp>
#include <contraflow/network/fused.hpp>
#include <contraflow/network/layers.hpp>

namespace contraflow {

/// The adapters that the layers below a module use, and how to use them once more: between the
/// forward pass of one role and its backward pass, other roles may have run.
class AdaptersInUse {
 public:
  /// None: for what selects its adapters itself.
  AdaptersInUse() = default;
  /// @param module root of the layers
  explicit AdaptersInUse(const torch::nn::Module& module) {
    for (const auto& layer : module.modules()) {
      const auto* linear = dynamic_cast<const LoraLinear*>(layer.get());
      if (linear == nullptr || !linear->selection()) continue;
      selection_ = linear->selection();
      active_ = SelectedHere::of(*selection_);
      if (const LowRank* adapter = linear->active()) {
        tensors_.push_back(adapter->down);
        tensors_.push_back(adapter->up);
      }
    }
  }
  /// Their values: A and B of each layer.
  const std::vector<Tensor>& tensors() const { return tensors_; }

  /// Calls @p f with these adapters selected, on this thread alone.
  template <class F>
  auto during(F&& f) const {
    if (!selection_) return f();
    const SelectedHere scope(*selection_, active_);
    return f();
  }

 private:
  std::shared_ptr<AdapterSelection> selection_;
  std::optional<std::size_t> active_;
  std::vector<Tensor> tensors_;
};

namespace detail {

using TensorFunction = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;

struct Recomputation : torch::CustomClassHolder {
  TensorFunction function;
  AdaptersInUse adapters;
  std::size_t inputs;  ///< the rest are weights
  at::DeviceType device;
  std::optional<at::ScalarType> autocast;
  bool composed_only;

  Recomputation(TensorFunction f, AdaptersInUse used, const std::vector<Tensor>& x)
      : function(std::move(f)),
        adapters(std::move(used)),
        inputs(x.size()),
        device(x.empty() ? at::kCPU : x[0].device().type()),
        autocast(Autocast::in_force(device)),
        composed_only(ComposedOnly::in_force()) {}

  /// Computes as in the forward pass: the backward pass runs outside of its scopes.
  std::vector<Tensor> again(const std::vector<Tensor>& x) const {
    const Autocast precision(device, autocast);
    const ComposedOnly layers(composed_only);
    return adapters.during([&] { return function(x); });
  }
};

class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  static std::vector<Tensor> forward(torch::autograd::AutogradContext* context,
                                     const c10::intrusive_ptr<Recomputation>& work,
                                     at::TensorList inputs_and_weights) {
    context->save_for_backward(inputs_and_weights.vec());
    context->saved_data["work"] = c10::IValue::make_capsule(work);
    return work->function(inputs_and_weights.slice(0, work->inputs).vec());
  }

  static std::vector<Tensor> backward(torch::autograd::AutogradContext* context,
                                      std::vector<Tensor> gradients) {
    expects_first_derivative();
    const auto capsule = context->saved_data["work"].toCapsule();
    const auto* work = static_cast<const Recomputation*>(capsule.get());
    const std::vector<Tensor> kept = context->get_saved_variables();
    const at::AutoGradMode with_gradient(true);
    std::vector<Tensor> inputs, sources;
    std::vector<std::size_t> place;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      const bool is_input = i < work->inputs;
      const Tensor source =
          is_input ? kept[i].detach().set_requires_grad(kept[i].requires_grad()) : kept[i];
      if (is_input) inputs.push_back(source);
      if (!source.requires_grad()) continue;
      sources.push_back(source);
      place.push_back(i);
    }
    std::vector<Tensor> outputs = work->again(inputs);
    std::vector<Tensor> differentiable, incoming;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!outputs[i].requires_grad() || !gradients[i].defined()) continue;
      differentiable.push_back(outputs[i]);
      incoming.push_back(gradients[i]);
    }
    // The first argument of forward is no tensor, and has no gradient.
    std::vector<Tensor> result(kept.size() + 1);
    if (differentiable.empty()) return result;
    const auto found = torch::autograd::grad(differentiable, sources, incoming,
                                             /*retain_graph=*/std::nullopt,
                                             /*create_graph=*/false, /*allow_unused=*/true);
    for (std::size_t i = 0; i < found.size(); ++i) result[place[i] + 1] = found[i];
    return result;
  }
};

inline std::vector<Tensor> recomputed_with(AdaptersInUse adapters,
                                           const std::vector<Tensor>& weights,
                                           TensorFunction function,
                                           const std::vector<Tensor>& inputs) {
  std::vector<Tensor> inputs_and_weights = inputs;
  inputs_and_weights.insert(inputs_and_weights.end(), weights.begin(), weights.end());
  const auto work =
      c10::make_intrusive<Recomputation>(std::move(function), std::move(adapters), inputs);
  return Recomputed::apply(work, at::TensorList(inputs_and_weights));
}

}  // namespace detail

/// Calls @p function on @p inputs and forgets what happened inside; the backward pass computes it
/// again (Chen and others 2016, section 3).
///
/// Memory then holds the inputs of each part instead of all activations within, for one more
/// forward pass. Parts that other roles ran in between are not disturbed: the adapters in use are
/// remembered, and so is the precision.
/// @param module whose parameters and adapters @p function uses
/// @param function from tensors to tensors; must draw no random numbers
/// @param inputs any number of defined tensors
/// @return what @p function returns
template <class F>
std::vector<Tensor> recomputed(const torch::nn::Module& module, F function,
                               const std::vector<Tensor>& inputs) {
  if (!at::GradMode::is_enabled()) return function(inputs);
  AdaptersInUse adapters(module);
  std::vector<Tensor> weights = adapters.tensors();
  for (const Tensor& parameter : module.parameters()) {
    if (parameter.requires_grad()) weights.push_back(parameter);
  }
  return detail::recomputed_with(std::move(adapters), weights, std::move(function), inputs);
}

/// The same of what selects its adapters itself, such as the velocity of a policy's role.
/// @param weights all that @p function uses and that require gradients
/// @param function from tensors to tensors; must draw no random numbers
/// @param inputs any number of defined tensors
/// @return what @p function returns
template <class F>
std::vector<Tensor> recomputed(const std::vector<Tensor>& weights, F function,
                               const std::vector<Tensor>& inputs) {
  if (!at::GradMode::is_enabled()) return function(inputs);
  return detail::recomputed_with({}, weights, std::move(function), inputs);
}

}  // namespace contraflow
