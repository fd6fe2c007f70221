#pragma once

/// @file
/// Weights of networks by name: listed, loaded strictly, drawn.

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

#include <contraflow/core/random.hpp>
#include <contraflow/io/file.hpp>
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
/// @param network whose parameters and buffers are replaced
/// @param weights by the dotted names of the network, floating-point
/// @param source named in errors, such as the file
/// @param placement dtype and device wanted
/// @throws Error that lists every missing, unexpected and misshapen name; the network is then
///   unchanged
inline void load_weights(torch::nn::Module& network, const std::map<std::string, Tensor>& weights,
                         const std::string& source, const Placement& placement = {}) {
  const std::map<std::string, Tensor> own = named_weights(network);
  detail::expects_same_names(own, weights, source);
  for (const auto& [name, given] : weights) {
    const auto dtype = placement.dtype.value_or(given.scalar_type());
    const Tensor placed = given.detach().to(placement.device, dtype);
    Tensor(own.at(name)).set_data(placed);
    // A mapped file would otherwise stay in memory beside its converted copy.
    if (!placed.is_alias_of(given)) release_pages(given.const_data_ptr(), given.nbytes());
  }
}

/// Gives a network copies of the values of another of the same shape.
inline void copy_weights(const torch::nn::Module& from, torch::nn::Module& to) {
  const std::map<std::string, Tensor> own = named_weights(to);
  for (const auto& [name, weight] : named_weights(from)) {
    Tensor(own.at(name)).set_data(weight.detach().clone());
  }
}

/// Moves a network to another dtype or device.
inline void move_weights(torch::nn::Module& network, const Placement& placement) {
  for (const auto& [name, weight] : named_weights(network)) {
    const auto dtype = placement.dtype.value_or(weight.scalar_type());
    Tensor(weight).set_data(weight.detach().to(placement.device, dtype));
  }
}

/// Lets a network be trained, or freezes it.
inline void set_trainable(torch::nn::Module& network, bool trainable) {
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

/// Draws all parameters that have no values yet, in the order of their names.
/// @param network whose buffers are left as they are
/// @param generator of the values
/// @param draw gives a weight as `draw(name, shape, generator)`
template <class Draw>
void initialise(torch::nn::Module& network, Generator& generator, Draw&& draw) {
  std::map<std::string, Tensor> parameters;
  for (const auto& item : network.named_parameters()) parameters.emplace(item.key(), item.value());
  for (auto& [name, parameter] : parameters) {
    const Tensor value = draw(name, parameter.sizes(), generator);
    parameter.set_data(value.to(parameter.scalar_type()).expand(parameter.sizes()).contiguous());
  }
}
/// Draws all parameters by initial_weight().
inline void initialise(torch::nn::Module& network, Generator& generator) {
  initialise(network, generator, initial_weight);
}

}  // namespace contraflow
