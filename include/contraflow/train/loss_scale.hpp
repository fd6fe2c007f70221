#pragma once

/// @file
/// Scaling of the loss for float16.

#include <cmath>
#include <cstdint>
#include <optional>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// How the loss is scaled where gradients pass through float16; the defaults are PyTorch's.
struct LossScaleOptions {
  double initial = 65536;               ///< factor at the start, above 0
  double growth = 2;                    ///< by which it grows after growth_interval good steps
  double backoff = 0.5;                 ///< by which it shrinks after a step that is not finite
  std::int64_t growth_interval = 2000;  ///< at least 1
};

/// The factor that keeps small gradients from vanishing in float16 (Micikevicius and others 2018,
/// section 3.2): grows while all goes well, shrinks when something overflows.
class LossScale {
 public:
  /// @param options unset: the factor is 1 for ever
  /// @throws Error if an option is out of range
  explicit LossScale(const std::optional<LossScaleOptions>& options)
      : is_fixed_(!options), options_(options.value_or(LossScaleOptions{})) {
    expects(options_.initial > 0, "loss_scale.initial", "above 0", options_.initial);
    expects(options_.growth >= 1, "loss_scale.growth", "at least 1", options_.growth);
    expects(options_.backoff > 0 && options_.backoff < 1, "loss_scale.backoff", "a value in (0, 1)",
            options_.backoff);
    expects(options_.growth_interval >= 1, "loss_scale.growth_interval", "at least 1",
            options_.growth_interval);
    if (!is_fixed_) factor_ = options_.initial;
  }

  /// What the loss is multiplied by and gradients are divided by.
  double factor() const { return factor_; }

  /// Learns whether a step's gradients were finite.
  void update(bool finite) {
    if (is_fixed_) return;
    good_steps_ = finite ? good_steps_ + 1 : 0;
    if (!finite) factor_ *= options_.backoff;
    if (good_steps_ < options_.growth_interval) return;
    factor_ *= options_.growth;
    good_steps_ = 0;
  }

  /// The factor and the number of good steps since it changed, float64 [2].
  Tensor state() const { return at::tensor({factor_, double(good_steps_)}, at::kDouble); }
  /// Takes over what state() gave.
  /// @throws Error for anything else
  void load(const Tensor& state) {
    const bool fits = state.dim() == 1 && state.size(0) == 2 && state.scalar_type() == at::kDouble;
    if (!fits) throw Error("loss_scale", "a factor and a count, float64 [2]", shape_text(state));
    const double factor = state[0].item<double>(), good_steps = state[1].item<double>();
    constexpr double most = 1e15;  // a count that float64 holds
    expects(std::isfinite(factor) && factor > 0, "loss_scale", "a factor above 0", factor);
    expects(good_steps >= 0 && good_steps <= most, "loss_scale", "a count of steps", good_steps);
    factor_ = factor;
    good_steps_ = std::int64_t(good_steps);
  }

 private:
  bool is_fixed_;
  LossScaleOptions options_;
  double factor_ = 1;
  std::int64_t good_steps_ = 0;
};

}  // namespace contraflow
