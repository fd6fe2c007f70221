#pragma once

/// @file
/// The tensors of a role's model.

#include <map>
#include <string>
#include <vector>

#include <contraflow/model/concept.hpp>
#include <contraflow/policy/role.hpp>

namespace contraflow {

/// The parameters of a model that require gradients.
template <HasModule M>
std::vector<Tensor> trained_parameters(const M& model) {
  std::vector<Tensor> trained;
  for (const Tensor& parameter : module_of(model)->parameters()) {
    if (parameter.requires_grad()) trained.push_back(parameter);
  }
  return trained;
}

/// Every parameter and buffer of a role's model, as "role.name".
template <HasModule M>
std::map<std::string, Tensor> named_tensors(const M& model, Role role) {
  std::map<std::string, Tensor> tensors;
  for (const auto& item : module_of(model)->named_parameters()) {
    tensors.emplace(role.name_with("." + item.key()), item.value());
  }
  for (const auto& item : module_of(model)->named_buffers()) {
    tensors.emplace(role.name_with("." + item.key()), item.value());
  }
  return tensors;
}

}  // namespace contraflow
