#pragma once

/// @file
/// Moving averages of weights, their distance, and their state.

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <contraflow/core/small_tensors.hpp>

namespace contraflow {

/// `average = decay average + (1 - decay) current`, in place, for lists of tensors.
///
/// At decay 0 the average becomes a bit-identical copy. Buffers of integers are copied.
/// @param average tensors that are moved
/// @param current tensors of the same shapes, towards which they are moved
/// @param decay in [0, 1]
/// @throws Error if the decay is out of range or the lists differ in length
inline void move_average(const std::vector<Tensor>& average, const std::vector<Tensor>& current,
                         double decay) {
  const at::NoGradGuard no_gradient;
  expects(decay >= 0 && decay <= 1, "decay", "a value in [0, 1]", decay);
  expects(average.size() == current.size(), "average", "as many tensors as the current list",
          average.size());
  if (decay == 0) {
    at::_foreach_copy_(average, current);
    return;
  }
  std::vector<Tensor> moved, towards;
  for (std::size_t i = 0; i < average.size(); ++i) {
    if (average[i].is_floating_point()) {
      moved.push_back(average[i]);
      towards.push_back(current[i]);
    } else {
      average[i].copy_(current[i]);
    }
  }
  if (moved.empty()) return;
  if (are_small(moved) && are_small(towards)) return interpolate_small(moved, towards, 1 - decay);
  at::_foreach_lerp_(moved, towards, 1 - decay);
}

/// How far one list of weights is from another, `|a - b| / |b|` over all their elements together.
/// @param a floating-point tensors
/// @param b tensors of the same shapes
/// @return at least 0; 0 for empty lists
/// @throws Error if the lists differ in length
inline double relative_distance(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  const at::NoGradGuard no_gradient;
  expects(a.size() == b.size(), "a", "as many tensors as b", a.size());
  if (a.empty()) return 0;
  if (are_small(a) && are_small(b)) {
    const double size = squared_norm(b);
    return size > 0 ? std::sqrt(squared_distance(a, b) / size) : 0;
  }
  const auto norm = [](const std::vector<Tensor>& tensors) {
    return at::stack(at::_foreach_norm(tensors)).norm().item<double>();
  };
  const double size = norm(b);
  return size > 0 ? norm(at::_foreach_sub(a, b)) / size : 0;
}

/// Gives named tensors the values of others: all of them, or none where an error is thrown.
/// @param own tensors that are written
/// @param values of the same shapes, under at least the same names
/// @throws Error if one is missing or has another shape
inline void restore(const std::map<std::string, Tensor>& own,
                    const std::map<std::string, Tensor>& values) {
  const at::NoGradGuard no_gradient;
  for (const auto& [name, tensor] : own) {
    const auto found = values.find(name);
    if (found == values.end()) throw Error("state", "a tensor named " + name, "none");
    expects_like(found->second, tensor, name.c_str());
  }
  for (const auto& [name, tensor] : own) tensor.copy_(values.at(name));
}

}  // namespace contraflow
