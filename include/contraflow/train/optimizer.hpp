#pragma once

/// @file
/// Optimisers, and what is done to gradients.

#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/optim/adamw.h>

#include <contraflow/core/small_tensors.hpp>

namespace contraflow {

/// Makes the optimiser of a run from its parameters: any of torch's, or the user's.
using OptimizerFactory =
    std::function<std::unique_ptr<torch::optim::Optimizer>(std::vector<Tensor> parameters)>;

/// torch::optim::AdamW with its update of each tensor in one operation, or of all that are_small()
/// in a loop.
///
/// The same numbers to rounding and the same saved state as torch's class; torch's own step makes
/// about ten passes over every parameter.
class FusedAdamW : public torch::optim::AdamW {
 public:
  using torch::optim::AdamW::AdamW;

  /// One step of all parameters that have gradients; the loss of the closure, if there is one.
  Tensor step(LossClosure closure = nullptr) override {
    const at::NoGradGuard no_gradient;
    Tensor loss;
    if (closure) {
      const at::AutoGradMode gradient(true);
      loss = closure();
    }
    for (torch::optim::OptimizerParamGroup& group : param_groups()) update(group);
    return loss;
  }

 private:
  /// Tensors of one device and dtype, which is what one operation can update.
  struct Batch {
    std::vector<Tensor> parameters, gradients, mean, square;
    std::vector<std::int64_t> steps;  ///< that each of them has made, with this one
  };

  void update(torch::optim::OptimizerParamGroup& group) {
    const auto& options = static_cast<const torch::optim::AdamWOptions&>(group.options());
    expects(!options.amsgrad(), "amsgrad", "false, or torch::optim::AdamW instead", true);
    std::map<std::pair<std::string, at::ScalarType>, Batch> batches;
    for (Tensor& parameter : group.params()) {
      if (!parameter.grad().defined()) continue;
      add(batches[{parameter.device().str(), parameter.scalar_type()}], parameter);
    }
    for (auto& [kind, batch] : batches) {
      const bool is_small = are_small(batch.parameters) && are_small(batch.gradients) &&
                            are_small(batch.mean) && are_small(batch.square);
      is_small ? update_small(batch, options) : update_fused(batch, options);
    }
  }

  static void update_fused(const Batch& batch, const torch::optim::AdamWOptions& options) {
    std::vector<Tensor> steps;
    for (std::size_t i = 0; i < batch.steps.size(); ++i) {
      // Those that are trained together have made the same number of steps.
      const bool is_as_before = i > 0 && batch.steps[i] == batch.steps[i - 1];
      const auto options_of_step = at::device(batch.parameters[i].device()).dtype(at::kFloat);
      steps.push_back(is_as_before ? steps.back()
                                   : at::full({}, double(batch.steps[i]), options_of_step));
    }
    const auto [beta1, beta2] = options.betas();
    at::_fused_adamw_(batch.parameters, batch.gradients, batch.mean, batch.square, {}, steps,
                      options.lr(), beta1, beta2, options.weight_decay(), options.eps(),
                      /*amsgrad=*/false, /*maximize=*/false);
  }

  static void update_small(const Batch& batch, const torch::optim::AdamWOptions& options) {
    const auto [beta1, beta2] = options.betas();
    const auto kept = float(1 - options.lr() * options.weight_decay());
    const auto to_gradient = float(1 - beta1), of_square = float(beta2),
               to_square = float(1 - beta2);
    const auto eps = float(options.eps());
    for (std::size_t k = 0; k < batch.parameters.size(); ++k) {
      const auto steps = double(batch.steps[k]);
      const auto rate = float(options.lr() / (1 - std::pow(beta1, steps)));
      const auto of_root = float(1 / std::sqrt(1 - std::pow(beta2, steps)));
      auto *parameter = data_of<float>(batch.parameters[k]), *mean = data_of<float>(batch.mean[k]),
           *square = data_of<float>(batch.square[k]);
      const auto* gradient = data_of<const float>(batch.gradients[k]);
      for (std::int64_t i = 0; i < batch.parameters[k].numel(); ++i) {
        const float g = gradient[i];
        mean[i] += to_gradient * (g - mean[i]);
        square[i] = of_square * square[i] + to_square * g * g;
        parameter[i] =
            kept * parameter[i] - rate * mean[i] / (std::sqrt(square[i]) * of_root + eps);
      }
      batch.parameters[k].unsafeGetTensorImpl()->bump_version();
    }
  }

  void add(Batch& batch, Tensor& parameter) {
    auto& state = state_of(parameter);
    state.step(state.step() + 1);
    batch.parameters.push_back(parameter);
    batch.gradients.push_back(parameter.grad());
    batch.mean.push_back(state.exp_avg());
    batch.square.push_back(state.exp_avg_sq());
    batch.steps.push_back(state.step());
  }

  torch::optim::AdamWParamState& state_of(const Tensor& parameter) {
    auto& slot = state_[parameter.unsafeGetTensorImpl()];
    if (!slot) {
      auto fresh = std::make_unique<torch::optim::AdamWParamState>();
      fresh->step(0);
      fresh->exp_avg(at::zeros_like(parameter, at::MemoryFormat::Preserve));
      fresh->exp_avg_sq(at::zeros_like(parameter, at::MemoryFormat::Preserve));
      slot = std::move(fresh);
    }
    return static_cast<torch::optim::AdamWParamState&>(*slot);
  }
};

/// Settings of AdamW; defaults as published for DiffusionNFT.
struct AdamWSettings {
  double learning_rate = 3e-4;  ///< above 0
  double beta1 = 0.9;           ///< decay of the mean of gradients
  double beta2 = 0.999;         ///< decay of the mean of their squares
  double epsilon = 1e-8;        ///< added to the root of the latter
  double weight_decay = 1e-4;   ///< decoupled, a step and unit of learning rate
};

/// A factory of FusedAdamW, for the options of trainers.
/// @param settings defaults as published for DiffusionNFT
/// @throws Error if the learning rate is not above 0
inline OptimizerFactory adamw(const AdamWSettings& settings = {}) {
  expects(settings.learning_rate > 0, "learning_rate", "above 0", settings.learning_rate);
  return [settings](std::vector<Tensor> parameters) {
    return std::make_unique<FusedAdamW>(std::move(parameters),
                                        torch::optim::AdamWOptions(settings.learning_rate)
                                            .betas({settings.beta1, settings.beta2})
                                            .eps(settings.epsilon)
                                            .weight_decay(settings.weight_decay));
  };
}

/// What joined_norm() makes one norm of: the norm of each tensor, or of lists that are_small() its
/// square in float64, [N].
inline Tensor norms_of(const std::vector<Tensor>& tensors, bool is_small) {
  const at::NoGradGuard no_gradient;
  if (!is_small) return at::stack(at::_foreach_norm(tensors));
  std::vector<double> squares;
  for (const Tensor& tensor : tensors) squares.push_back(squared_norm({tensor}));
  return at::tensor(squares, at::kDouble);
}

/// The norm of all tensors together from norms_of() them, a tensor without dimensions.
inline Tensor joined_norm(const Tensor& norms, bool is_small) {
  if (!is_small) return norms.norm();
  double sum = 0;
  for (std::int64_t i = 0; i < norms.numel(); ++i) sum += data_of<const double>(norms)[i];
  return at::scalar_tensor(std::sqrt(sum), at::kDouble);
}

/// Euclidean norm of all gradients together, a tensor without dimensions; 0 where there are none.
inline Tensor gradient_norm(const std::vector<Tensor>& parameters) {
  std::vector<Tensor> gradients;
  for (const Tensor& parameter : parameters) {
    if (parameter.grad().defined()) gradients.push_back(parameter.grad());
  }
  if (gradients.empty()) return at::zeros({});
  const bool is_small = are_small(gradients);
  return joined_norm(norms_of(gradients, is_small), is_small);
}

/// Multiplies all gradients by @p factor.
inline void scale_gradients(const std::vector<Tensor>& parameters, double factor) {
  const at::NoGradGuard no_gradient;
  for (const Tensor& parameter : parameters) {
    if (parameter.grad().defined()) parameter.grad().mul_(factor);
  }
}

}  // namespace contraflow
