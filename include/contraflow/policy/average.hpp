#pragma once

#include <cmath>
#include <vector>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// `average = decay average + (1 - decay) current`, in place, for lists of tensors.
///
/// At decay 0 the average becomes a bit-identical copy. Buffers of integers are copied.
inline void move_average(const std::vector<Tensor>& average, const std::vector<Tensor>& current,
                         double decay) {
  const at::NoGradGuard no_gradient;
  expects(decay >= 0 && decay <= 1, "decay", "a value in [0, 1]", decay);
  expects(average.size() == current.size(), "average", "as many tensors as the current list",
          average.size());
  for (std::size_t i = 0; i < average.size(); ++i) {
    if (decay == 0 || !average[i].is_floating_point()) {
      average[i].copy_(current[i]);
    } else {
      average[i].lerp_(current[i], 1 - decay);
    }
  }
}

/// `|a - b| / |b|` over all tensors of two lists, 0 for empty lists.
inline double relative_distance(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  const at::NoGradGuard no_gradient;
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]).square().sum().item<double>();
    size += b[i].square().sum().item<double>();
  }
  return size > 0 ? std::sqrt(difference / size) : 0;
}

}  // namespace contraflow
