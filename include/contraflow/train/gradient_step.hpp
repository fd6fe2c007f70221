#pragma once

/// @file
/// One gradient step: backward passes, norm, clipping, scale of the loss, learning rate, optimiser.

#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <contraflow/distributed/communicator.hpp>
#include <contraflow/time/schedule.hpp>
#include <contraflow/train/loss_scale.hpp>
#include <contraflow/train/optimizer.hpp>

namespace contraflow {

/// How gradients become steps: a component of every trainer.
struct Optimization {
  /// Makes the optimiser. Unset: adamw() as published; for pre-training, of learning rate 2e-3.
  OptimizerFactory optimizer = {};
  Schedule learning_rate_factor = Constant{1};  ///< of the optimiser's own, by gradient step
  double max_gradient_norm = 1;  ///< gradients are scaled down to this norm; 0: never
  std::int64_t micro_batch = 0;  ///< most samples of one forward pass of the update; 0: no limit
  std::optional<LossScaleOptions> loss_scale = {};  ///< for models that compute in float16
};

/// What a gradient step came to.
struct StepOutcome {
  bool made = false;         ///< false: loss or gradient was not finite, nothing has changed
  double loss = 0;           ///< of all backward passes together
  double gradient_norm = 0;  ///< before clipping
};

/// Makes gradient steps out of losses: the same for every trainer.
///
/// begin(), then backward() for each micro-batch, then has_loss(), then finish(), which reads the
/// device once. With several ranks each of them does so for its part of the step's samples, and
/// has_loss() adds up their losses and gradients.
template <class Comm = Alone>
class GradientStep {
 public:
  /// @param parameters what is trained, at least one
  /// @param options how
  /// @param unset the optimiser's factory where the options have none
  /// @param communicator of the ranks that make each step together
  /// @throws Error if an option is out of range
  GradientStep(std::vector<Tensor> parameters, const Optimization& options,
               const OptimizerFactory& unset, Comm communicator = {})
      : parameters_(std::move(parameters)),
        options_(options),
        loss_scale_(options.loss_scale),
        communicator_(std::move(communicator)) {
    expects(options.max_gradient_norm >= 0, "max_gradient_norm", "at least 0",
            options.max_gradient_norm);
    expects(!parameters_.empty(), "policy", "at least one parameter to train", 0);
    optimizer_ = (options.optimizer ? options.optimizer : unset)(parameters_);
    for (const auto& group : optimizer_->param_groups()) rates_.push_back(group.options().get_lr());
  }

  /// Forgets the gradients of the step before.
  void begin() {
    optimizer_->zero_grad();
    loss_ = Tensor();
  }

  /// Adds the gradients of a loss without dimensions.
  void backward(const Tensor& loss) {
    const double scale = loss_scale_.factor();
    (scale == 1 ? loss : loss * scale).backward();
    const Tensor value = loss.detach().to(at::kDouble);
    loss_ = loss_.defined() ? loss_ + value : value;
  }

  /// Whether there was anything to learn since begin(), on any rank: collective.
  bool has_loss() {
    if constexpr (!is_alone<Comm>) add_up();
    return loss_.defined();
  }

  /// Makes the step, unless loss or gradient is not finite.
  StepOutcome finish() {
    const double scale = loss_scale_.factor();
    const Tensor norm = gradient_norm(parameters_).to(loss_.options());
    const Tensor read = at::stack({loss_, norm}).to(at::kCPU);
    const auto* values = static_cast<const double*>(read.const_data_ptr());
    StepOutcome outcome{false, values[0], values[1] / scale};
    outcome.made = std::isfinite(outcome.loss) && std::isfinite(outcome.gradient_norm);
    loss_scale_.update(outcome.made);
    if (outcome.made) step(outcome.gradient_norm, scale);
    return outcome;
  }

  /// Steps that were made so far.
  std::int64_t count() const { return count_; }
  /// The optimiser, as its factory made it.
  torch::optim::Optimizer& optimizer() { return *optimizer_; }
  /// What the loss is multiplied by.
  LossScale& loss_scale() { return loss_scale_; }
  /// Continues the count of an earlier run.
  void resume(std::int64_t count) { count_ = count; }

 private:
  /// Adds up losses and gradients over the ranks. What no rank has stays undefined, so that the
  /// optimiser leaves it out.
  void add_up() {
    Tensor has = at::empty({std::int64_t(parameters_.size()) + 1}, at::kDouble);
    auto* flag = has.mutable_data_ptr<double>();
    std::vector<Tensor> summed{has};
    for (const Tensor& parameter : parameters_) {
      Tensor& gradient = parameter.mutable_grad();
      *flag++ = gradient.defined() ? 1 : 0;
      if (!gradient.defined()) gradient = at::zeros_like(parameter);
      summed.push_back(gradient);
    }
    *flag = loss_.defined() ? 1 : 0;
    if (!loss_.defined()) loss_ = at::zeros({}, at::kDouble).to(parameters_[0].device());
    summed.push_back(loss_);
    communicator_.sum(summed);
    flag = has.mutable_data_ptr<double>();
    for (const Tensor& parameter : parameters_) {
      if (*flag++ == 0) parameter.mutable_grad() = Tensor();
    }
    if (*flag == 0) loss_ = Tensor();
  }

  void step(double norm, double scale) {
    const bool clips = options_.max_gradient_norm > 0 && norm > options_.max_gradient_norm;
    const double factor = (clips ? options_.max_gradient_norm / norm : 1) / scale;
    if (factor != 1) scale_gradients(parameters_, factor);
    const double rate = options_.learning_rate_factor(count_);
    for (std::size_t i = 0; i < rates_.size(); ++i) {
      optimizer_->param_groups()[i].options().set_lr(rates_[i] * rate);
    }
    optimizer_->step();
    ++count_;
  }

  std::vector<Tensor> parameters_;
  Optimization options_;
  LossScale loss_scale_;
  [[no_unique_address]] Comm communicator_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  std::vector<double> rates_;
  Tensor loss_;  ///< sum of the losses since begin(), float64
  std::int64_t count_ = 0;
};

}  // namespace contraflow
