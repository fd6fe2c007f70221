#pragma once

/// @file
/// Classifier-free guidance.

#include <utility>

#include <contraflow/model/conversions.hpp>

namespace contraflow {

/// Which velocities of a guided one carry gradients.
enum class GuidanceGradient {
  both,      ///< the negative one and that of the condition
  positive,  ///< that of the condition alone
};

/// Classifier-free guidance: `u + scale (c - u)` (Ho and Salimans 2022).
///
/// Both velocities come from one pass over a doubled batch [negative, positive]; at a scale of at
/// most 1 the model runs once, on the condition alone, as published.
///
/// Where gradients go through it, the negative velocity may carry none: training then takes the
/// activations of one half, in two passes (FlowBP, for rewards that differentiate).
template <class M, class C>
class Guided : public detail::Wrapper<Guided<M, C>, M> {
 public:
  /// @param model a FlowModel under C
  /// @param negative the unconditional or negative condition, one row
  /// @param scale guidance scale, 4.5 for Stable Diffusion 3.5
  /// @param gradient of which velocities
  Guided(M model, C negative, double scale, GuidanceGradient gradient = GuidanceGradient::both)
      : detail::Wrapper<Guided<M, C>, M>(std::move(model)),
        negative_(std::move(negative)),
        scale_(scale),
        gradient_(gradient) {
    expects(batch_size(negative_) == 1, "negative", "one row", batch_size(negative_));
  }

  /// The guided velocity.
  /// @par Shape
  /// @p x_t [B, ...], @p t [B], @p condition B rows; result as x_t
  Tensor operator()(const Tensor& x_t, const Tensor& t, const C& condition) {
    if (scale_ <= 1) return velocity_of(this->model_, x_t, t, condition);
    if (gradient_ == GuidanceGradient::positive && at::GradMode::is_enabled()) {
      return in_two_passes(x_t, t, condition);
    }
    const C both = concatenate(repeat(negative_, x_t.size(0)), condition);
    const Tensor v = velocity_of(this->model_, at::cat({x_t, x_t}), at::cat({t, t}), both);
    const auto halves = v.chunk(2);
    return at::lerp(halves[0], halves[1], scale_);
  }

 private:
  Tensor in_two_passes(const Tensor& x_t, const Tensor& t, const C& condition) {
    const Tensor negative = [&] {
      const at::NoGradGuard no_gradient;
      return velocity_of(this->model_, x_t, t, repeat(negative_, x_t.size(0)));
    }();
    return at::lerp(negative, velocity_of(this->model_, x_t, t, condition), scale_);
  }

  C negative_;
  double scale_;
  GuidanceGradient gradient_;
};

}  // namespace contraflow
