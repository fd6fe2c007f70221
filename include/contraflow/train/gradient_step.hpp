#pragma once

/// @file
/// One gradient step: backward passes, norm, clipping, scale of the loss, learning rate, optimiser.

#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <contraflow/distributed/shards.hpp>
#include <contraflow/time/schedule.hpp>
#include <contraflow/train/loss_scale.hpp>
#include <contraflow/train/optimizer_state.hpp>

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
///
/// Where parameters have owners, a rank has the optimiser of its own ones: their gradients are
/// added up there and nowhere else, and finish() is collective and gives all ranks the new values.
template <class Comm = Alone>
class GradientStep {
 public:
  /// @param parameters what is trained, at least one
  /// @param options how
  /// @param unset the optimiser's factory where the options have none
  /// @param communicator of the ranks that make each step together
  /// @param owners the rank that has the optimiser of each parameter; empty: all ranks have all
  /// @throws Error if an option is out of range
  GradientStep(std::vector<Tensor> parameters, const Optimization& options,
               const OptimizerFactory& unset, Comm communicator = {}, std::vector<int> owners = {})
      : parameters_(std::move(parameters)),
        options_(options),
        loss_scale_(options.loss_scale),
        communicator_(std::move(communicator)),
        owners_(std::move(owners)),
        buckets_(is_divided() ? buckets_of(parameters_, owners_) : std::vector<Bucket>{}) {
    expects(options.max_gradient_norm >= 0, "max_gradient_norm", "at least 0",
            options.max_gradient_norm);
    expects(!parameters_.empty(), "policy", "at least one parameter to train", 0);
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (is_own(i)) own_.push_back(i);
    }
    optimizer_ = (options.optimizer ? options.optimizer : unset)(own_parameters());
    for (const auto& group : optimizer_->param_groups()) rates_.push_back(group.options().get_lr());
  }

  /// Forgets the gradients of the step before.
  void begin() {
    is_divided() ? forget_gradients() : optimizer_->zero_grad();
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
    if constexpr (!is_alone<Comm>) is_divided() ? add_up_on_owners() : add_up();
    return loss_.defined();
  }

  /// Makes the step, unless loss or gradient is not finite.
  StepOutcome finish() {
    const double scale = loss_scale_.factor();
    const Tensor norm =
        (is_divided() ? norm_of_all() : gradient_norm(parameters_)).to(loss_.options());
    const Tensor read = at::stack({loss_, norm}).to(at::kCPU);
    const auto* values = static_cast<const double*>(read.const_data_ptr());
    StepOutcome outcome{false, values[0], values[1] / scale};
    outcome.made = std::isfinite(outcome.loss) && std::isfinite(outcome.gradient_norm);
    loss_scale_.update(outcome.made);
    if (outcome.made) step(outcome.gradient_norm, scale);
    if (is_divided()) forget_gradients();
    return outcome;
  }

  /// Steps that were made so far.
  std::int64_t count() const { return count_; }
  /// The optimiser, as its factory made it.
  torch::optim::Optimizer& optimizer() { return *optimizer_; }
  /// Which of the parameters it has.
  const ParameterNumbers& own() const { return own_; }
  /// What is trained.
  const std::vector<Tensor>& parameters() const { return parameters_; }
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

  bool is_divided() const { return !owners_.empty(); }
  bool is_own(std::size_t i) const { return !is_divided() || owners_[i] == communicator_.rank(); }
  std::vector<Tensor> own_parameters() const {
    std::vector<Tensor> own;
    for (const std::size_t i : own_) own.push_back(parameters_[i]);
    return own;
  }
  void forget_gradients() {
    for (const Tensor& parameter : parameters_) parameter.mutable_grad() = Tensor();
  }

  /// Adds up losses over the ranks, and gradients on their owners, where alone they are left.
  void add_up_on_owners() {
    const Tensor has = at::zeros({std::int64_t(parameters_.size()) + 1}, at::kDouble);
    auto* flags = has.mutable_data_ptr<double>();
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      flags[i] = parameters_[i].grad().defined() ? 1 : 0;
    }
    flags[parameters_.size()] = loss_.defined() ? 1 : 0;
    if (!loss_.defined()) loss_ = at::zeros({}, at::kDouble).to(parameters_[0].device());
    communicator_.sum({has, loss_});
    flags = has.mutable_data_ptr<double>();
    learnt_.clear();
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (flags[i] != 0) learnt_.push_back(i);
    }
    if (flags[parameters_.size()] == 0) loss_ = Tensor();
    for (const Bucket& bucket : buckets_) add_up_on_owner(bucket, flags);
  }
  void add_up_on_owner(const Bucket& bucket, const double* has_gradient) {
    std::vector<Tensor> summed;
    for (const std::size_t i : bucket.tensors) {
      if (has_gradient[i] == 0) continue;
      Tensor& gradient = parameters_[i].mutable_grad();
      if (!gradient.defined()) gradient = at::zeros_like(parameters_[i]);
      summed.push_back(gradient);
    }
    if (!summed.empty()) sum_to(communicator_, summed, bucket.owner);
    for (const std::size_t i : bucket.tensors) {
      if (!is_own(i)) parameters_[i].mutable_grad() = Tensor();
    }
  }

  /// gradient_norm() over the gradients of all owners: collective.
  Tensor norm_of_all() {
    if (learnt_.empty()) return at::zeros({});
    std::vector<Tensor> all, own;
    std::vector<std::int64_t> places;
    for (std::size_t k = 0; k < learnt_.size(); ++k) {
      all.push_back(parameters_[learnt_[k]]);
      if (!is_own(learnt_[k])) continue;
      own.push_back(all.back().grad().contiguous());
      places.push_back(std::int64_t(k));
    }
    const bool is_small = are_small(all);
    const Tensor norms = at::zeros({std::int64_t(all.size())}, at::kDouble);
    if (!own.empty()) {
      norms.index_put_({at::tensor(places, at::kLong)},
                       norms_of(own, is_small).to(at::kCPU, at::kDouble));
    }
    communicator_.sum({norms});
    return joined_norm(is_small ? norms : norms.to(all[0].scalar_type()), is_small);
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
    for (const Bucket& bucket : buckets_) {
      broadcast_from(communicator_, tensors_of(bucket, parameters_), bucket.owner);
    }
    ++count_;
  }

  std::vector<Tensor> parameters_;
  Optimization options_;
  LossScale loss_scale_;
  [[no_unique_address]] Comm communicator_;
  std::vector<int> owners_;            ///< of the parameters; empty: all ranks have all
  std::vector<Bucket> buckets_;        ///< of parameters, by owners
  ParameterNumbers own_;               ///< parameters of the optimiser
  std::vector<std::size_t> learnt_{};  ///< those that have a gradient on any rank, by owners
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  std::vector<double> rates_;
  Tensor loss_;  ///< sum of the losses since begin(), float64
  std::int64_t count_ = 0;
};

}  // namespace contraflow
