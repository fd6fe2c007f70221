#pragma once

/// @file
/// The step of a Gaussian transition in one pass over the state.

#include <cstdint>
#include <cstring>

#include <contraflow/core/random.hpp>

namespace contraflow {

/// A mean, and a draw of the normal distribution about it.
struct GaussianStep {
  Tensor mean;  ///< [B, ...]
  Tensor next;  ///< [B, ...]
};

namespace detail {

/// Where numbers of a draw go: `mean = on_x x + on_v v` and `next = mean + std n`.
struct MeanAndNext {
  const float* x;
  const float* v;
  float on_x, on_v, std;
  float* mean;
  float* next;

  void operator()(std::int64_t i, float number) const {
    mean[i] = philox::Numbers::product(x[i], on_x) + philox::Numbers::product(v[i], on_v);
    next[i] = mean[i] + philox::Numbers::product(number, std);
  }
  template <class N>
  void pack(std::int64_t i, const typename N::Float& numbers) const {
    typename N::Float from, along;
    std::memcpy(&from, x + i, sizeof(from));
    std::memcpy(&along, v + i, sizeof(along));
    const typename N::Float middle = N::product(from, on_x) + N::product(along, on_v);
    const typename N::Float end = middle + N::product(numbers, std);
    std::memcpy(mean + i, &middle, sizeof(middle));
    std::memcpy(next + i, &end, sizeof(end));
  }
};

/// Whether a kernel may read @p x: float32 on the CPU, one number behind the other, no gradients.
inline bool is_plain(const Tensor& x) {
  return x.device().is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous() && x.dim() > 0 &&
         x.numel() > 0 && !(at::GradMode::is_enabled() && x.requires_grad());
}

}  // namespace detail

/// `mean = on_x x + on_v v` and `next = mean + std n` with n standard normal: on the CPU in float32
/// one pass, which makes no tensor of noise; the draw is that of `normal_like(mean, generator)`.
/// @param x [B, ...], float32 or wider
/// @param v alike
/// @param on_x factor of x
/// @param on_v factor of v
/// @param std factor of the numbers
/// @param generator one draw is made
inline GaussianStep gaussian_step(const Tensor& x, const Tensor& v, double on_x, double on_v,
                                  double std, Generator& generator) {
  if (!detail::is_plain(x) || !detail::is_plain(v) || x.sizes() != v.sizes()) {
    const Tensor mean = at::add(x * on_x, v, on_v);
    return {mean, at::add(mean, normal_like(mean, generator), std)};
  }
  GaussianStep step{at::empty(x.sizes(), at::kFloat), at::empty(x.sizes(), at::kFloat)};
  fill_rows<philox::NormalNumbers>(
      x.sizes(), generator,
      detail::MeanAndNext{data_of<const float>(x), data_of<const float>(v),
                          static_cast<float>(on_x), static_cast<float>(on_v),
                          static_cast<float>(std), step.mean.mutable_data_ptr<float>(),
                          step.next.mutable_data_ptr<float>()});
  return step;
}

}  // namespace contraflow
