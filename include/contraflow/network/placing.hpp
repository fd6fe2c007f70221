#pragma once

/// @file
/// Modules under dotted names, with weights that take no memory until they are given values.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <torch/nn/module.h>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// A weight that has a shape and no values yet: one NaN, seen as every element.
///
/// A network of any size can be built and asked for its names and shapes without its memory; a
/// value that was forgotten shows in every result.
/// @param shape of the weight
/// @param dtype floating-point
inline Tensor unfilled(at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return at::full({}, std::numeric_limits<double>::quiet_NaN(), dtype).expand(shape);
}
/// Whether a weight has no values yet, as unfilled() makes them.
inline bool is_unfilled(const Tensor& weight) {
  const auto strides = weight.strides();
  const bool is_one_number =
      weight.numel() > 0 && weight.is_floating_point() &&
      std::all_of(strides.begin(), strides.end(), [](std::int64_t stride) { return stride == 0; });
  return is_one_number && std::isnan(weight.as_strided({}, {}).item<double>());
}

namespace detail {

/// A module that only carries others under its name.
class Branch : public torch::nn::Module {};

/// The module under the first part of a dotted name, made where there is none.
inline torch::nn::Module& branch(torch::nn::Module& root, const std::string& name) {
  const auto children = root.named_children();
  if (const auto* child = children.find(name)) return **child;
  return *root.register_module(name, std::make_shared<Branch>());
}

}  // namespace detail

/// Registers a module under a dotted name, such as "net.0.proj", below @p root.
///
/// Published state dicts name weights after nested modules; with this, a network keeps their names
/// without keeping their classes.
/// @param root the network or block
/// @param name one or more names joined by dots
/// @param module registered under the last of them
/// @return @p module
template <class M>
std::shared_ptr<M> place(torch::nn::Module& root, std::string_view name,
                         std::shared_ptr<M> module) {
  torch::nn::Module* parent = &root;
  for (std::size_t dot; (dot = name.find('.')) != std::string_view::npos;) {
    parent = &detail::branch(*parent, std::string(name.substr(0, dot)));
    name.remove_prefix(dot + 1);
  }
  return parent->register_module(std::string(name), std::move(module));
}

/// Makes a module from @p arguments and registers it under a dotted name below @p root.
template <class M, class... Arguments>
std::shared_ptr<M> place(torch::nn::Module& root, std::string_view name,
                         const Arguments&... arguments) {
  return place(root, name, std::make_shared<M>(arguments...));
}

}  // namespace contraflow
