#pragma once

/// @file
/// Weights of networks by name: listed, loaded strictly, drawn, kept in 8 bits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

#include <contraflow/core/random.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/network/layers.hpp>
#include <contraflow/network/placing.hpp>

namespace contraflow {

/// Every parameter and buffer of a network, by dotted name. The tensors are the network's own.
inline std::map<std::string, Tensor> named_weights(const torch::nn::Module& network) {
  std::map<std::string, Tensor> weights;
  for (const auto& item : network.named_parameters()) weights.emplace(item.key(), item.value());
  for (const auto& item : network.named_buffers()) weights.emplace(item.key(), item.value());
  return weights;
}

/// Number of elements of all parameters and buffers.
inline std::int64_t weight_count(const torch::nn::Module& network) {
  std::int64_t count = 0;
  for (const auto& [name, weight] : named_weights(network)) count += weight.numel();
  return count;
}

/// Where and in which precision a network lives.
struct Placement {
  std::optional<at::ScalarType> dtype = {};  ///< unset: as the weights come
  at::Device device = at::kCPU;              ///< any device of LibTorch
};

namespace detail {

/// The linear layers of a network, by the dotted names of their weights.
/// @tparam Layer LoraLinear, const for a network that is
template <class Layer, class Module>
std::map<std::string, Layer*> linear_layers(Module& network) {
  std::map<std::string, Layer*> layers;
  const std::function<void(const std::string&, Module&)> note = [&](const std::string& name,
                                                                    Module& module) {
    auto* layer = dynamic_cast<Layer*>(&module);
    if (layer != nullptr) layers.emplace(name.empty() ? "weight" : name + ".weight", layer);
  };
  network.apply(note);
  return layers;
}

inline Int8Weight int8_placed(const Int8Weight& weight, const Placement& placement) {
  return {weight.values.to(placement.device), weight.scale.to(placement.device),
          placement.dtype.value_or(weight.dtype)};
}

/// A weight at its place; one without values stays a single number.
inline Tensor placed_weight(const Tensor& value, const at::Device& device, at::ScalarType dtype) {
  if (!is_unfilled(value)) return value.detach().to(device, dtype);
  return value.detach().as_strided({}, {}).to(device, dtype).expand(value.sizes());
}

/// Where the weights of a network go, by name: a layer in 8 bits has one weight, which becomes so
/// as it comes.
class WeightSlots {
 public:
  explicit WeightSlots(torch::nn::Module& network) : all_(named_weights(network)) {
    for (const auto& [name, layer] : linear_layers<LoraLinear>(network)) {
      if (!layer->int8()) continue;
      in_int8_.emplace(name, layer);
      all_.erase(name + "_scale");
    }
  }
  const std::map<std::string, Tensor>& all() const { return all_; }
  /// The layer in 8 bits whose weight has this name; null for other weights.
  LoraLinear* in_int8(const std::string& name) const {
    const auto found = in_int8_.find(name);
    return found == in_int8_.end() ? nullptr : found->second;
  }
  /// Gives a weight its values; true where they are the given tensor's own.
  bool give(const std::string& name, const Tensor& value, const Placement& placement) const {
    if (LoraLinear* layer = in_int8(name)) {
      layer->keep_in_int8(int8_placed(quantised(value, name), placement));
      return false;
    }
    const auto dtype = placement.dtype.value_or(value.scalar_type());
    const Tensor placed = placed_weight(value, placement.device, dtype);
    Tensor(all_.at(name)).set_data(placed);
    return placed.is_alias_of(value);
  }

 private:
  std::map<std::string, Tensor> all_;
  std::map<std::string, LoraLinear*> in_int8_;
};

/// Faults under their headings, every one of them: whoever repairs a file needs each name.
class Faults {
 public:
  void add(const std::string& heading, const std::string& fault) {
    auto& list = lists_[heading];
    list += (list.empty() ? "" : ", ") + fault;
  }
  bool empty() const { return lists_.empty(); }
  std::string text() const {
    std::string all;
    for (const auto& [heading, list] : lists_) {
      all += (all.empty() ? "" : "; ") + heading + ": " + list;
    }
    return all;
  }

 private:
  std::map<std::string, std::string> lists_;
};

inline void expects_same_names(const std::map<std::string, Tensor>& own,
                               const std::map<std::string, Tensor>& given,
                               const std::string& source) {
  Faults faults;
  for (const auto& [name, weight] : own) {
    const auto found = given.find(name);
    if (found == given.end()) {
      faults.add("missing", name);
    } else if (found->second.sizes() != weight.sizes()) {
      faults.add("misshapen",
                 name + " " + shape_text(found->second) + " instead of " + shape_text(weight));
    } else if (!found->second.is_floating_point()) {
      faults.add("not floating-point", name);
    }
  }
  for (const auto& [name, weight] : given) {
    if (!own.contains(name)) faults.add("unexpected", name);
  }
  if (!faults.empty()) throw Error(source, "exactly the weights of the network", faults.text());
}

}  // namespace detail

/// Gives a network its weights, strictly: every name once, in the right shape, and no other.
///
/// The network takes over the tensors themselves where dtype and device already are as wanted, so
/// that the weights of a mapped file are never copied; what is converted leaves memory as it goes.
/// Layers that keep_in_int8() spoke to take theirs in 8 bits, one after the other: the network
/// never is in memory in floating point.
/// @param network whose parameters and buffers are replaced
/// @param weights by the dotted names of the network, floating-point
/// @param source named in errors, such as the file
/// @param placement dtype and device wanted
/// @throws Error that lists every missing, unexpected and misshapen name; the network is then
///   unchanged. Also for NaN and infinity where weights are kept in 8 bits
inline void load_weights(torch::nn::Module& network, const std::map<std::string, Tensor>& weights,
                         const std::string& source, const Placement& placement = {}) {
  const detail::WeightSlots slots(network);
  detail::expects_same_names(slots.all(), weights, source);
  for (const auto& [name, given] : weights) {
    const bool is_taken_over = slots.give(name, given, placement);
    // A mapped file would otherwise stay in memory beside its converted copy.
    if (!is_taken_over) release_pages(given.const_data_ptr(), given.nbytes());
  }
}

/// Lets the linear layers of a module keep their weights in 8 bits: half the memory of bfloat16,
/// with an element off by 1/254 of its output's largest weight at most.
///
/// For a frozen base under adapters. Before load_weights() or initialise() it takes no memory, and
/// they round each weight as it comes; afterwards layer after layer is rounded, and freed. Biases,
/// norms and embeddings stay as they are.
/// @param module a network or a part of one; LoraLinear below it are meant, and itself
/// @throws Error if a weight holds NaN or infinity
inline void keep_in_int8(torch::nn::Module& module) {
  for (const auto& [name, layer] : detail::linear_layers<LoraLinear>(module)) {
    if (!layer->int8()) layer->keep_in_int8(quantised(layer->weight(), name));
  }
}

/// Number of linear layers that keep their weights in 8 bits.
inline std::int64_t int8_layer_count(const torch::nn::Module& network) {
  const auto layers = detail::linear_layers<const LoraLinear>(network);
  return std::count_if(layers.begin(), layers.end(),
                       [](const auto& layer) { return layer.second->int8().has_value(); });
}

/// Throws Error where a network that is to be trained itself keeps weights in 8 bits.
inline void expects_trainable_weights(const torch::nn::Module& network) {
  for (const auto& [name, layer] : detail::linear_layers<const LoraLinear>(network)) {
    if (!layer->int8()) continue;
    throw Error(name, "a weight in floating point, to be trained (LoraPolicy trains adapters)",
                "one in 8 bits");
  }
}

/// Gives a network copies of the values of another of the same shape; what the other keeps in 8
/// bits, it does, too.
/// @throws Error if the network keeps a weight in 8 bits that the other does not
inline void copy_weights(const torch::nn::Module& from, torch::nn::Module& to) {
  const auto layers = detail::linear_layers<LoraLinear>(to);
  for (const auto& [name, layer] : detail::linear_layers<const LoraLinear>(from)) {
    if (const auto& weight = layer->int8()) {
      layers.at(name)->keep_in_int8(*weight);
    } else if (layers.at(name)->int8()) {
      throw Error(name, "a weight in 8 bits, as where it is copied to", "one in floating point");
    }
  }
  const std::map<std::string, Tensor> own = named_weights(to);
  for (const auto& [name, weight] : named_weights(from)) {
    Tensor(own.at(name)).set_data(weight.detach().clone());
  }
}

/// Moves a network to another dtype or device; weights in 8 bits stay so, and compute in that
/// dtype.
inline void move_weights(torch::nn::Module& network, const Placement& placement) {
  const detail::WeightSlots slots(network);
  for (const auto& [name, weight] : slots.all()) {
    if (LoraLinear* layer = slots.in_int8(name)) {
      layer->keep_in_int8(detail::int8_placed(*layer->int8(), placement));
    } else {
      slots.give(name, weight, placement);
    }
  }
}

/// Lets a network be trained, or freezes it.
/// @throws Error if it is to be trained and keeps weights in 8 bits
inline void set_trainable(torch::nn::Module& network, bool trainable) {
  if (trainable) expects_trainable_weights(network);
  for (Tensor& parameter : network.parameters()) parameter.set_requires_grad(trainable);
}

/// Draws a weight that keeps the variance of what passes through it: normal with standard deviation
/// `1 / sqrt(fan in)` for matrices and kernels, zero for biases, one for the scales of norms.
/// @param name dotted name, whose last part says what the weight is
/// @param shape of the weight
/// @param generator advanced for matrices and kernels
inline Tensor initial_weight(const std::string& name, at::IntArrayRef shape, Generator& generator) {
  if (name.ends_with("bias")) return at::zeros(shape);
  if (shape.size() < 2) return at::ones(shape);
  const double fan_in = double(c10::multiply_integers(shape.slice(1)));
  return normal(shape, generator) / std::sqrt(fan_in);
}

/// Draws all parameters, and weights in 8 bits, in the order of their names.
/// @param network whose other buffers are left as they are
/// @param generator of the values
/// @param draw gives a weight as `draw(name, shape, generator)`
template <class Draw>
void initialise(torch::nn::Module& network, Generator& generator, Draw&& draw) {
  const detail::WeightSlots slots(network);
  const auto parameters = network.named_parameters();
  for (const auto& [name, weight] : slots.all()) {
    const LoraLinear* layer = slots.in_int8(name);
    if (layer == nullptr && !parameters.contains(name)) continue;
    const auto dtype = layer != nullptr ? layer->dtype() : weight.scalar_type();
    const Tensor value = draw(name, weight.sizes(), generator).expand(weight.sizes());
    slots.give(name, value.contiguous(), {.dtype = dtype, .device = weight.device()});
  }
}
/// Draws all parameters by initial_weight().
inline void initialise(torch::nn::Module& network, Generator& generator) {
  initialise(network, generator, initial_weight);
}

}  // namespace contraflow
