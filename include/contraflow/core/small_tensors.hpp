#pragma once

/// @file
/// Lists of small tensors, gone through in a loop: an operation of LibTorch for each of them costs
/// more than their numbers do.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// Whether a list is worth a loop on the calling thread: float32 without gaps on the CPU, and no
/// more than 2^18 numbers.
inline bool are_small(const std::vector<Tensor>& tensors) {
  std::int64_t count = 0;
  for (const Tensor& x : tensors) {
    if (!x.is_cpu() || x.scalar_type() != at::kFloat || x.layout() != at::kStrided) return false;
    if (!x.is_contiguous()) return false;
    count += x.numel();
  }
  return count <= std::int64_t{1} << 18;
}

/// Sum of the squares of what @p number gives for [0, count), in float64.
template <class F>
double sum_of_squares(std::int64_t count, const F& number) {
  constexpr std::int64_t lanes = 8;
  std::array<double, lanes> sums{};
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (std::int64_t k = 0; k < lanes; ++k) {
      const double value = number(i + k);
      sums[std::size_t(k)] += value * value;
    }
  }
  for (; i < count; ++i) sums[0] += double(number(i)) * double(number(i));
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

/// `|a|^2` of a list that is small, all its numbers together.
inline double squared_norm(const std::vector<Tensor>& a) {
  double sum = 0;
  for (const Tensor& x : a) {
    const auto* values = data_of<const float>(x);
    sum += sum_of_squares(x.numel(), [=](std::int64_t i) { return values[i]; });
  }
  return sum;
}

/// `|a - b|^2` of lists that are small, all their numbers together.
/// @throws Error if a tensor of b has another shape
inline double squared_distance(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double sum = 0;
  for (std::size_t k = 0; k < a.size(); ++k) {
    expects_like(b[k], a[k], "b");
    const auto *left = data_of<const float>(a[k]), *right = data_of<const float>(b[k]);
    sum += sum_of_squares(a[k].numel(), [=](std::int64_t i) { return left[i] - right[i]; });
  }
  return sum;
}

/// `a + weight (b - a)`, in place, for lists that are small; a itself at weight 0.
/// @throws Error if a tensor of b has another shape
inline void interpolate_small(const std::vector<Tensor>& a, const std::vector<Tensor>& b,
                              double weight) {
  const auto to_b = float(weight), to_a = float(1 - weight);
  for (std::size_t k = 0; k < a.size(); ++k) {
    expects_like(b[k], a[k], "b");
    auto* target = data_of<float>(a[k]);
    const auto* other = data_of<const float>(b[k]);
    for (std::int64_t i = 0; i < a[k].numel(); ++i) {
      // From the nearer end, so that equal numbers stay as they are.
      const float way = other[i] - target[i];
      target[i] = weight < 0.5 ? target[i] + to_b * way : other[i] - to_a * way;
    }
    a[k].unsafeGetTensorImpl()->bump_version();
  }
}

}  // namespace contraflow
