#pragma once

/// @file
/// Plain flow matching.

#include <cmath>
#include <concepts>
#include <limits>
#include <utility>

#include <contraflow/model/concept.hpp>
#include <contraflow/objective/regression.hpp>
#include <contraflow/observe/concept.hpp>
#include <contraflow/path/rectified_flow.hpp>
#include <contraflow/policy/average.hpp>
#include <contraflow/time/schedule.hpp>
#include <contraflow/time/training_times.hpp>
#include <contraflow/train/optimizer.hpp>

namespace contraflow {

/// Data with a condition a sample.
template <class C>
struct ConditionedData {
  Tensor x0;    ///< [B, ...]
  C condition;  ///< one row a sample
};

/// Settings of plain flow matching.
struct PretrainOptions {
  std::int64_t steps = 2000;                                    ///< gradient steps, at least 1
  std::int64_t batch = 256;                                     ///< samples a step, at least 1
  OptimizerFactory optimizer = adamw({.learning_rate = 2e-3});  ///< makes the optimiser
  Schedule learning_rate_factor = Constant{1};  ///< of the optimiser's own, by gradient step
  double max_gradient_norm = 1;                 ///< 0: never clipped
  std::int64_t report_every = 100;  ///< steps in an "epoch" of the reports to observers, at least 1
  std::uint64_t seed = 0;           ///< of data, noise and times
};

/// Trains a model by flow matching, `mean (v_theta(x_t, t) - (eps - x0))^2`.
///
/// @param model a TrainableModel; its own weights are trained
/// @param data called as `data(count, generator)`, gives x0 [count, ...] or ConditionedData
/// @param options settings
/// @param times TrainingTimes
/// @param observers told after every `report_every` steps, with the metric "loss"
/// @return how it ended; steps whose loss is not finite are skipped and counted
/// @throws Error if an option is out of range
/// @par Random numbers
/// from a generator of its own, made from the seed of the options
template <class M, class Data, class Times = UniformTimes, class... Os>
RunReport pretrain(M& model, Data&& data, const PretrainOptions& options, const Times& times = {},
                   Os&&... observers) {
  static_assert(explain_trainable<M>());
  expects(options.steps >= 1, "steps", "at least 1", options.steps);
  expects(options.batch >= 1, "batch", "at least 1", options.batch);
  expects(options.report_every >= 1, "report_every", "at least 1", options.report_every);
  expects(options.max_gradient_norm >= 0, "max_gradient_norm", "at least 0",
          options.max_gradient_norm);
  Observers<std::remove_reference_t<Os>...> all(observers...);
  Generator generator = seeded(options.seed);
  const TimeGrid grid = uniform_grid(1000);
  std::vector<Tensor> parameters = module_of(model)->parameters();
  const auto optimizer = options.optimizer(parameters);
  std::vector<double> rates;
  for (const auto& group : optimizer->param_groups()) rates.push_back(group.options().get_lr());
  const auto loss_of = [&](const Tensor& x0, const auto& condition) {
    const Tensor eps = normal_like(x0, generator);
    const Tensor t = times(x0.size(0), grid, generator).select(1, 0).to(x0.device());
    const Tensor v = velocity_of(model, interpolate(x0, eps, t), t, condition);
    return mean_per_sample((wide(v) - velocity_target(x0, eps)).square()).mean();
  };
  const auto next_loss = [&] {
    auto batch = data(options.batch, generator);
    if constexpr (std::convertible_to<decltype(batch), Tensor>) {
      return loss_of(batch, Unconditional{});
    } else {
      return loss_of(batch.x0, batch.condition);
    }
  };

  std::int64_t taken = 0, skipped = 0;
  double norm = 0;
  // The loss of a step, or NaN where it was skipped.
  const auto train_step = [&] {
    optimizer->zero_grad();
    const Tensor loss = next_loss();
    loss.backward();
    norm = gradient_norm(parameters).template item<double>();
    const auto value = loss.template item<double>();
    if (!std::isfinite(value + norm)) {
      ++skipped;
      return std::numeric_limits<double>::quiet_NaN();
    }
    if (options.max_gradient_norm > 0 && norm > options.max_gradient_norm) {
      scale_gradients(parameters, options.max_gradient_norm / norm);
    }
    const double factor = options.learning_rate_factor(taken++);
    for (std::size_t i = 0; i < rates.size(); ++i) {
      optimizer->param_groups()[i].options().set_lr(rates[i] * factor);
    }
    optimizer->step();
    return value;
  };

  RunReport report;
  all.start({1, options.steps / options.report_every});
  double loss_sum = 0;
  std::int64_t losses = 0;
  for (std::int64_t step = 1; step <= options.steps && !report.stopped; ++step) {
    const double loss = train_step();
    if (std::isfinite(loss)) {
      loss_sum += loss;
      ++losses;
    }
    if (step % options.report_every != 0) continue;
    report.last = {};
    report.last.epoch = report.epochs = step / options.report_every;
    report.last.gradient_steps = taken;
    report.last.forward_evaluations = report.last.backward_evaluations = step * options.batch;
    if (losses > 0) report.last.metrics.push_back({"loss", loss_sum / double(losses)});
    report.last.metrics.push_back({"gradient_norm", norm});
    report.last.metrics.push_back({"skipped_steps", double(skipped)});
    loss_sum = 0;
    losses = 0;
    const Verdict verdict = all(report.last);
    report.stopped = verdict.stop;
    report.reason = verdict.reason;
  }
  all.finish(report);
  return report;
}

}  // namespace contraflow
