#pragma once

/// @file
/// Any torch module as a model.

#include <memory>
#include <utility>

#include <contraflow/model/concept.hpp>

namespace contraflow {

/// Any torch module and a callable that says how to get the velocity from it.
///
/// The shortest way to bring a network: `ModuleVelocity(net, [](auto& net, const Tensor& x, const
/// Tensor& t) { return net->forward(torch::cat({x, t.unsqueeze(1)}, 1)); })`. The callable may take
/// a condition as fourth argument; it must keep no state of its own.
template <class Module, class F>
class ModuleVelocity {
 public:
  /// @param module a module holder
  /// @param call velocity as `call(module, x_t, t)` or `call(module, x_t, t, condition)`
  ModuleVelocity(Module module, F call) : module_(std::move(module)), call_(std::move(call)) {}

  /// The velocity, as the callable gives it.
  template <class... Condition>
  requires std::invocable<const F&, Module&, const Tensor&, const Tensor&, const Condition&...>
  auto operator()(const Tensor& x_t, const Tensor& t, const Condition&... condition) {
    return call_(module_, x_t, t, condition...);
  }

  /// The module that is trained.
  std::shared_ptr<torch::nn::Module> module() const { return module_.ptr(); }
  /// With weights of its own, and the same callable.
  ModuleVelocity clone() const { return {clone_of(module_), call_}; }

 private:
  Module module_;
  F call_;
};

}  // namespace contraflow
