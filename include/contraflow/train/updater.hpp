#pragma once

/// @file
/// From scored samples to gradient steps.

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/observe/report.hpp>
#include <contraflow/path/rectified_flow.hpp>
#include <contraflow/policy/concept.hpp>
#include <contraflow/time/schedule.hpp>
#include <contraflow/time/training_times.hpp>
#include <contraflow/train/loss_scale.hpp>
#include <contraflow/train/optimizer.hpp>
#include <contraflow/train/prompts.hpp>
#include <contraflow/train/rollout.hpp>

namespace contraflow {

/// How an epoch's samples become gradient steps.
struct UpdateOptions {
  std::int64_t gradient_steps = 1;  ///< in which the samples are divided, at least 1
  std::int64_t inner_epochs = 1;    ///< passes over the samples, each with fresh noise and times
  std::int64_t micro_batch = 0;     ///< most samples of one forward pass; 0: no limit
  double max_gradient_norm = 1;     ///< gradients are scaled down to this norm; 0: never
  /// Samples of one group are noised alike: the same noise at the same times. What they have in
  /// common then cancels in the difference between the good and the bad ones, as in a paired test.
  bool shared_noise = false;
  std::int64_t transitions_per_sample = 0;          ///< random recorded steps trained on; 0: all
  OptimizerFactory optimizer = adamw();             ///< makes the optimiser
  Schedule learning_rate_factor = Constant{1};      ///< of the optimiser's own, by gradient step
  std::optional<LossScaleOptions> loss_scale = {};  ///< for models that compute in float16
};

/// What an update did.
struct UpdateReport {
  std::int64_t gradient_steps = 0;  ///< that were made
  std::int64_t skipped_steps = 0;   ///< loss or gradient was not finite
  double loss = 0;                  ///< mean over gradient steps
  double gradient_norm = 0;         ///< mean over gradient steps, before clipping
  double velocity_norm = 0;         ///< root mean square of v_theta in the last batch
  Statistics statistics = {};       ///< of the terms
};

/// Adds what an update did to the metrics of an epoch.
inline void add_metrics(EpochReport& report, const UpdateReport& update) {
  report.metrics.push_back({"loss", update.loss});
  update.statistics.for_each([&](std::string_view name, double mean) {
    report.metrics.push_back({"loss/" + std::string(name), mean});
  });
  report.metrics.push_back({"gradient_norm", update.gradient_norm});
  report.metrics.push_back({"velocity_norm", update.velocity_norm});
  report.metrics.push_back({"skipped_steps", double(update.skipped_steps)});
}

/// Counts velocities: one for each sample and role.
struct EvaluationCount {
  std::int64_t forward = 0;   ///< computed
  std::int64_t backward = 0;  ///< of these, differentiated
};

/// Makes gradient steps out of scored samples: forward process or recorded transitions, the needed
/// velocities, the objective, the optimiser, the averages.
///
/// Used by Trainer on what it collects and by OfflineTrainer on what is stored.
template <class P, class S, class Prompts, class Times>
class Updater {
 public:
  using Record = RecordOf<S>;  ///< what the rollout has recorded
  /// What the prompts give.
  using C = decltype(std::declval<const Prompts&>().condition(std::declval<const Tensor&>()));

  /// @param policy is trained; its clones are made here
  /// @param objective a Sum
  /// @param prompts a PromptSource
  /// @param times TrainingTimes
  /// @param options settings
  /// @throws Error if an option is out of range
  Updater(P& policy, S objective, const Prompts& prompts, Times times, UpdateOptions options)
      : policy_(policy),
        objective_(std::move(objective)),
        prompts_(prompts),
        times_(std::move(times)),
        options_(std::move(options)),
        loss_scale_(options_.loss_scale) {
    static_assert(explain_policy<P, C>());
    static_assert(explain_roles<S, P>());
    expects(options_.gradient_steps >= 1, "gradient_steps", "at least 1", options_.gradient_steps);
    expects(options_.inner_epochs >= 1, "inner_epochs", "at least 1", options_.inner_epochs);
    expects(options_.micro_batch >= 0, "micro_batch", "at least 0", options_.micro_batch);
    expects(options_.max_gradient_norm >= 0, "max_gradient_norm", "at least 0",
            options_.max_gradient_norm);
    expects(options_.transitions_per_sample >= 0, "transitions_per_sample", "at least 0",
            options_.transitions_per_sample);
    policy_.keep(typename S::AllVelocities{});
    parameters_ = policy_.parameters();
    expects(!parameters_.empty(), "policy", "at least one parameter to train", 0);
    optimizer_ = options_.optimizer(parameters_);
    for (const auto& group : optimizer_->param_groups()) rates_.push_back(group.options().get_lr());
  }

  /// Trains on samples.
  /// @param rollout samples and what was recorded of them
  /// @param rows int64 [M], the samples of the rollout that have scores
  /// @param scores of these M samples
  /// @param grid of the rollout, which training times may follow
  /// @param generator of noise, times and order
  UpdateReport update(const Rollout<Record>& rollout, const Tensor& rows, const Scores& scores,
                      const TimeGrid& grid, Generator& generator) {
    UpdateReport report;
    const auto signals = objective_.signals(scores);
    const Tensor units = objective_.units(scores);
    for (std::int64_t inner = 0; inner < options_.inner_epochs; ++inner) {
      const Tensor shuffled = units.index_select(0, permutation(units.size(0), generator));
      for (std::int64_t k = 0; k < options_.gradient_steps; ++k) {
        const std::int64_t first = units.size(0) * k / options_.gradient_steps;
        const std::int64_t last = units.size(0) * (k + 1) / options_.gradient_steps;
        if (first == last) continue;
        const Samples samples{rollout, rows, signals, shuffled.slice(0, first, last), grid};
        gradient_step(samples, generator, report);
      }
    }
    finish(report);
    return report;
  }

  /// Velocities computed so far.
  const EvaluationCount& evaluations() const { return evaluations_; }
  /// The same, for whoever computes velocities beside the updates.
  EvaluationCount& evaluations() { return evaluations_; }
  /// Gradient steps made so far.
  std::int64_t gradient_steps() const { return gradient_steps_; }
  /// The optimiser, as its factory made it.
  torch::optim::Optimizer& optimizer() { return *optimizer_; }
  /// What the loss is multiplied by.
  LossScale& loss_scale() { return loss_scale_; }
  /// The objective.
  const S& objective() const { return objective_; }

  /// Continues the count of gradient steps of an earlier run.
  void resume(std::int64_t gradient_steps, EvaluationCount evaluations) {
    gradient_steps_ = gradient_steps;
    evaluations_ = evaluations;
  }

 private:
  using Signals = std::array<Tensor, S::size>;

  /// The samples of one gradient step.
  struct Samples {
    const Rollout<Record>& rollout;
    const Tensor& rows;
    const Signals& signals;
    Tensor units;  ///< [U, k], positions in rows
    const TimeGrid& grid;
  };

  void gradient_step(const Samples& samples, Generator& generator, UpdateReport& report) {
    optimizer_->zero_grad();
    double loss = 0;
    if constexpr (S::uses_forward) loss += forward_part(samples, generator, report);
    if constexpr (S::uses_transitions) loss += transition_part(samples, generator, report);
    const double scale = loss_scale_.factor();
    const double norm = gradient_norm(parameters_).template item<double>() / scale;
    const bool finite = std::isfinite(loss) && std::isfinite(norm);
    loss_scale_.update(finite);
    if (!finite) {
      ++report.skipped_steps;
      return;
    }
    const bool clips = options_.max_gradient_norm > 0 && norm > options_.max_gradient_norm;
    const double factor = (clips ? options_.max_gradient_norm / norm : 1) / scale;
    if (factor != 1) scale_gradients(parameters_, factor);
    set_learning_rate();
    optimizer_->step();
    policy_.after_gradient_step(++gradient_steps_);
    ++report.gradient_steps;
    report.loss += loss;
    report.gradient_norm += norm;
  }

  void set_learning_rate() {
    const double factor = options_.learning_rate_factor(gradient_steps_);
    for (std::size_t i = 0; i < rates_.size(); ++i) {
      optimizer_->param_groups()[i].options().set_lr(rates_[i] * factor);
    }
  }

  static void finish(UpdateReport& report) {
    const auto steps = static_cast<double>(std::max<std::int64_t>(report.gradient_steps, 1));
    report.loss /= steps;
    report.gradient_norm /= steps;
  }

  /// Terms on the forward process: every unit at each of its times.
  double forward_part(const Samples& samples, Generator& generator, UpdateReport& report) {
    const std::int64_t size = samples.units.size(1);
    const Noise noise = noised(samples, generator);
    const std::int64_t per_unit = noise.t.size(0) / samples.units.numel();
    const Tensor members = samples.units.repeat({per_unit, 1}).reshape({-1});
    const Tensor rows = samples.rows.index_select(0, members);
    return in_micro_batches(rows.size(0), size, [&](std::int64_t first, std::int64_t last) {
      const Tensor own = rows.slice(0, first, last);
      ForwardBatch<typename S::ForwardVelocities> batch;
      batch.x0 = samples.rollout.x0.index_select(0, own.to(device_of(samples)));
      batch.eps = noise.eps.slice(0, first, last);
      batch.t = noise.t.slice(0, first, last);
      batch.x_t = interpolate(batch.x0, batch.eps, batch.t);
      evaluate_roles(batch.velocities, batch.x_t, batch.t, condition_of(samples, own), report);
      return objective_.template loss<ForwardProcess>(
          batch, selected(samples, members.slice(0, first, last)), report.statistics);
    });
  }

  /// Noise and times of every unit, those that are noised alike drawn once.
  struct Noise {
    Tensor eps;  ///< [K U k, ...]
    Tensor t;    ///< [K U k]
  };
  Noise noised(const Samples& samples, Generator& generator) const {
    const std::int64_t units = samples.units.size(0), size = samples.units.size(1);
    Tensor draw = at::arange(units, at::kLong);
    if (options_.shared_noise) {
      const Tensor first = samples.rows.index_select(0, samples.units.select(1, 0));
      draw = std::get<1>(at::_unique(samples.rollout.group.index_select(0, first),
                                     /*sorted=*/true, /*return_inverse=*/true));
    }
    const std::int64_t draws =
        options_.shared_noise ? draw.max().template item<std::int64_t>() + 1 : units;
    // Time-major, so that a micro-batch holds many samples at few times.
    const Tensor times = times_(draws, samples.grid, generator).t();
    auto shape = samples.rollout.x0.sizes().vec();
    shape[0] = draws;
    shape.insert(shape.begin(), times.size(0));
    const Tensor eps = normal(shape, generator, samples.rollout.x0.options());
    const Tensor own = draw.repeat_interleave(size);
    return {eps.index_select(1, own.to(eps.device())).flatten(0, 1),
            times.index_select(1, own).reshape({-1}).to(device_of(samples))};
  }

  /// Terms on recorded transitions: every unit at each recorded step, or at some of them.
  double transition_part(const Samples& samples, Generator& generator, UpdateReport& report) {
    const auto& record = samples.rollout.record;
    const auto all = static_cast<std::int64_t>(record.transitions.size());
    const std::int64_t units = samples.units.size(0);
    const std::int64_t per_unit =
        options_.transitions_per_sample > 0 ? std::min(options_.transitions_per_sample, all) : all;
    const Tensor steps = uniform({units, all}, generator)
                             .argsort(/*dim=*/1, /*descending=*/false)
                             .narrow(1, 0, per_unit)
                             .t()
                             .reshape({-1});
    const Tensor members = samples.units.repeat({per_unit, 1}).reshape({-1});
    const Tensor rows = samples.rows.index_select(0, members);
    return in_micro_batches(rows.size(0), 1, [&](std::int64_t first, std::int64_t last) {
      const Tensor own = rows.slice(0, first, last);
      const Tensor own_steps = steps.slice(0, first, last).to(device_of(samples));
      auto batch = transition_batch(record, own.to(device_of(samples)), own_steps);
      const Tensor sigma = at::tensor(record.sigma, at::kDouble).to(batch.x.options());
      evaluate_roles(batch.velocities, batch.x, sigma.index_select(0, own_steps),
                     condition_of(samples, own), report);
      return objective_.template loss<RecordedTransitions>(
          batch, selected(samples, members.slice(0, first, last)), report.statistics);
    });
  }

  static auto transition_batch(const Record& record, const Tensor& rows, const Tensor& steps) {
    const std::int64_t samples = record.log_prob.size(1);
    const auto gathered = [&](const Tensor& of, const Tensor& major) {
      return of.flatten(0, 1).index_select(0, major * samples + rows);
    };
    const auto row_of = [&](const std::vector<std::int64_t>& row) {
      return at::tensor(row, at::kLong).to(steps.device()).index_select(0, steps);
    };
    TransitionBatch<typename S::TransitionVelocities> batch;
    batch.x = gathered(record.states, row_of(record.before));
    batch.next = gathered(record.states, row_of(record.after));
    batch.old_log_prob = gathered(record.log_prob, steps);
    if constexpr (S::records_mean) batch.old_mean = gathered(record.mean, steps);
    batch.transition = TransitionRows::of(record.transitions, steps);
    return batch;
  }

  /// Calls @p losses_of(first, last) on micro-batches of whole units, backpropagates the mean of
  /// all losses, and returns it.
  template <class F>
  double in_micro_batches(std::int64_t count, std::int64_t unit, F&& losses_of) {
    const std::int64_t most = options_.micro_batch > 0
                                  ? std::max<std::int64_t>(options_.micro_batch / unit, 1) * unit
                                  : count;
    double sum = 0;
    for (std::int64_t first = 0; first < count; first += most) {
      const Tensor loss =
          losses_of(first, std::min(count, first + most)).sum() / static_cast<double>(count);
      (loss_scale_.factor() == 1 ? loss : loss * loss_scale_.factor()).backward();
      sum += loss.template item<double>();
    }
    return sum;
  }

  template <class RoleSet>
  void evaluate_roles(Velocities<RoleSet>& velocities, const Tensor& x, const Tensor& t,
                      const C& condition, UpdateReport& report) {
    RoleSet::for_each([&](auto role) {
      velocities.template get<role()>() = policy_.velocity(role(), x, t, condition);
      evaluations_.forward += x.size(0);
      if (role() == Role::current) evaluations_.backward += x.size(0);
    });
    if constexpr (RoleSet::template contains<Role::current>) {
      const at::NoGradGuard no_gradient;
      const Tensor& v = velocities.template get<Role::current>();
      report.velocity_norm =
          wide(v).norm().template item<double>() / std::sqrt(static_cast<double>(v.numel()));
    }
  }

  C condition_of(const Samples& samples, const Tensor& rows) const {
    return prompts_.condition(samples.rollout.prompt.index_select(0, rows));
  }

  static Signals selected(const Samples& samples, const Tensor& members) {
    Signals own;
    for (std::size_t i = 0; i < own.size(); ++i) {
      if (!samples.signals[i].defined()) continue;
      own[i] = samples.signals[i].index_select(0, members).to(device_of(samples));
    }
    return own;
  }

  static at::Device device_of(const Samples& samples) { return samples.rollout.x0.device(); }

  P& policy_;
  S objective_;
  const Prompts& prompts_;
  Times times_;
  UpdateOptions options_;
  std::vector<Tensor> parameters_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  LossScale loss_scale_;
  std::vector<double> rates_;
  EvaluationCount evaluations_;
  std::int64_t gradient_steps_ = 0;
};

}  // namespace contraflow
