#pragma once

/// @file
/// Micro-batches for terms: samples noised afresh, and recorded transitions.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include <contraflow/objective/points.hpp>
#include <contraflow/path/rectified_flow.hpp>
#include <contraflow/train/rollout.hpp>

namespace contraflow {

/// The units of one gradient step: samples (k = 1), pairs (k = 2) or groups that stay together.
/// @par Shape
/// members int64 [U, k], positions in the rollout, on the CPU
struct StepUnits {
  Tensor members;  ///< see above

  /// The whole step, where not all of its units are here.
  struct All {
    Tensor id;       ///< of all samples
    Tensor group;    ///< of all samples
    Tensor members;  ///< of all units, positions among all samples
    Tensor which;    ///< of all units these are
  };
  std::optional<All> all = {};  ///< see above

  std::int64_t count() const { return members.size(0); }  ///< U
  std::int64_t size() const { return members.size(1); }   ///< k
  /// Each member at each of @p times points, all units at one point side by side: [times U k].
  Tensor rows(std::int64_t times) const { return members.flatten().repeat({times}); }
};

/// Samples noised afresh, in micro-batches.
///
/// Noise and time of a sample are a function of its id, or of its group's where the samples of a
/// group share them: they do not depend on what is trained beside it.
template <class Record>
class ForwardPoints {
 public:
  /// @param settings times and sharing of noise
  /// @param rollout the samples
  /// @param units of the gradient step
  /// @param grid of the rollout, which training times may follow
  /// @param stream of this pass over the epoch's samples
  ForwardPoints(const ForwardProcess& settings, const Rollout<Record>& rollout,
                const StepUnits& units, const TimeGrid& grid, const Generator& stream)
      : rollout_(rollout),
        units_(units),
        noise_(stream.stream(Purpose::training_noise)),
        reports_times_(settings.report_times) {
    const auto names = [&](const Tensor& id, const Tensor& group, const Tensor& members) {
      return (settings.shared_noise ? group : id).index_select(0, members.select(1, 0));
    };
    names_ = names(rollout.id, rollout.group, units.members);
    // Strata are those of all units of the step.
    times_ = units.all ? drawn_times(names(units.all->id, units.all->group, units.all->members),
                                     settings, grid, stream)
                             .index_select(0, units.all->which)
                       : drawn_times(names_, settings, grid, stream);
    per_sample_ = times_.size(1);
    rows_ = units.rows(per_sample_);
    times_ = on_device(times_.t().reshape({-1}).repeat_interleave(units.size()), device());
  }

  /// Times a sample.
  std::int64_t per_sample() const { return per_sample_; }
  /// Number of rows of all micro-batches together.
  std::int64_t count() const { return rows_.numel(); }
  /// The sample of each row of [first, last), int64 on the CPU.
  Tensor members(std::int64_t first, std::int64_t last) const {
    return rows_.slice(0, first, last);
  }

  /// The rows [first, last), whole units.
  /// @tparam RoleSet of the batch's velocities, which are still undefined
  template <class RoleSet, class C>
  ForwardBatch<RoleSet, C> batch(std::int64_t first, std::int64_t last, C condition) const {
    const Tensor own = on_device(members(first, last), device());
    const Tensor x0 = rollout_.x0.index_select(0, own);
    const Tensor t = times_.slice(0, first, last);
    const Tensor eps = noise(first, last, x0);
    return {x0,
            eps,
            t,
            interpolate(x0, eps, t),
            std::move(condition),
            {},
            units_.size(),
            reports_times_};
  }

 private:
  at::Device device() const { return rollout_.x0.device(); }

  /// The times of units of these names, [U, K] on the CPU.
  static Tensor drawn_times(const Tensor& names, const ForwardProcess& settings,
                            const TimeGrid& grid, const Generator& stream) {
    if (!settings.shared_noise) return times_of(names, settings, grid, stream);
    // Units that are noised alike have their times drawn once.
    const auto distinct = at::_unique(names, /*sorted=*/true, /*return_inverse=*/true);
    return times_of(std::get<0>(distinct), settings, grid, stream)
        .index_select(0, std::get<1>(distinct));
  }
  static Tensor times_of(const Tensor& names, const ForwardProcess& settings, const TimeGrid& grid,
                         const Generator& stream) {
    Generator generator = stream.stream(Purpose::times).rows(names);
    const Tensor times = settings.times(names.numel(), grid, generator);
    const bool fits = times.dim() == 2 && times.size(0) == names.numel() && times.size(1) > 0;
    expects(fits, "times", "a tensor [units, K] with K > 0", shape_text(times));
    return times.to(at::kCPU, at::kFloat);
  }

  /// The noise of the rows [first, last), as x0: that of a unit at a time is drawn once.
  Tensor noise(std::int64_t first, std::int64_t last, const Tensor& x0) const {
    const std::int64_t size = units_.size(), count = units_.count();
    const Tensor row = at::arange(first / size, last / size, at::kLong);
    const Tensor time = row.div(count, "floor");
    const Tensor name = names_.index_select(0, row - time * count);
    // A time has a name of its own beside the sample's: at most 2^16 of them, 2^47 samples.
    Generator generator = noise_.rows(name * (std::int64_t{1} << 16) + time);
    auto shape = x0.sizes().vec();
    shape[0] = row.numel();
    const Tensor eps = normal(shape, generator, x0.options());
    return size == 1 ? eps : eps.repeat_interleave(size, 0);
  }

  const Rollout<Record>& rollout_;
  const StepUnits& units_;
  Generator noise_;
  Tensor names_;  ///< of each unit, int64 [U]
  Tensor rows_;   ///< the sample of each row, int64 [K U k] on the CPU
  Tensor times_;  ///< of each row, float32 [K U k] on the device
  std::int64_t per_sample_ = 0;
  bool reports_times_ = false;
};

/// The record of an epoch's transitions as tables on the device of the samples.
struct TransitionTables {
  TransitionRows transition;  ///< of the S recorded steps
  Tensor before;              ///< row of the states before each of them, int64 [S]
  Tensor after;               ///< row of the states behind each of them, int64 [S]
  Tensor sigma;               ///< at which each of them starts, float32 [S]

  /// The tables of a record; terms are told which step a row is of where @p tells_steps.
  template <bool WithMean>
  static TransitionTables of(const RecordedSteps<WithMean>& record, bool tells_steps = false) {
    const auto device = record.states.device();
    TransitionRows transition = TransitionRows::of(record.transitions, device);
    if (!record.dt.empty())
      transition.dt = on_device(at::tensor(record.dt, at::kDouble), device, at::kFloat);
    if (tells_steps) {
      transition.steps = static_cast<std::int64_t>(record.transitions.size());
      transition.step = at::arange(transition.steps, at::device(device).dtype(at::kLong));
    }
    return {std::move(transition), on_device(at::tensor(record.before, at::kLong), device),
            on_device(at::tensor(record.after, at::kLong), device),
            on_device(at::tensor(record.sigma, at::kDouble), device, at::kFloat)};
  }
};

/// Recorded transitions, in micro-batches: every sample at each recorded step, or at some of them.
template <class Record>
class TransitionPoints {
 public:
  /// @param settings transitions a sample
  /// @param rollout the samples and their record
  /// @param tables of the record
  /// @param units of the gradient step, single samples
  /// @param stream of this pass over the epoch's samples
  TransitionPoints(const RecordedTransitions& settings, const Rollout<Record>& rollout,
                   const TransitionTables& tables, const StepUnits& units, const Generator& stream)
      : rollout_(rollout), tables_(tables) {
    const auto all = static_cast<std::int64_t>(rollout.record.transitions.size());
    per_sample_ = settings.per_sample > 0 ? std::min(settings.per_sample, all) : all;
    const Tensor names = rollout.id.index_select(0, units.members.flatten());
    Generator generator = stream.stream(Purpose::transitions).rows(names);
    const Tensor chosen = uniform({names.numel(), all}, generator)
                              .argsort(/*dim=*/1, /*descending=*/false)
                              .narrow(1, 0, per_sample_);
    steps_ = on_device(chosen.t().reshape({-1}), rollout.x0.device());
    rows_ = units.rows(per_sample_);
  }

  /// Transitions a sample.
  std::int64_t per_sample() const { return per_sample_; }
  /// Number of rows of all micro-batches together.
  std::int64_t count() const { return rows_.numel(); }
  /// The sample of each row of [first, last), int64 on the CPU.
  Tensor members(std::int64_t first, std::int64_t last) const {
    return rows_.slice(0, first, last);
  }
  /// The time at which each row's step starts.
  Tensor times(std::int64_t first, std::int64_t last) const {
    return tables_.sigma.index_select(0, steps_.slice(0, first, last));
  }

  /// The rows [first, last).
  /// @tparam RoleSet of the batch's velocities, which are still undefined
  template <class RoleSet, class C>
  TransitionBatch<RoleSet, C> batch(std::int64_t first, std::int64_t last, C condition) const {
    const Record& record = rollout_.record;
    const Tensor steps = steps_.slice(0, first, last);
    const Tensor own = on_device(members(first, last), steps.device());
    const std::int64_t samples = rollout_.size();
    const auto gathered = [&](const Tensor& of, const Tensor& major) {
      return of.flatten(0, 1).index_select(0, major * samples + own);
    };
    return {gathered(record.states, tables_.before.index_select(0, steps)),
            gathered(record.states, tables_.after.index_select(0, steps)),
            gathered(record.log_prob, steps),
            record.mean.defined() ? gathered(record.mean, steps) : Tensor(),
            tables_.transition.select(steps),
            std::move(condition),
            {},
            record.weight.defined() ? gathered(record.weight, steps) : Tensor()};
  }

 private:
  const Rollout<Record>& rollout_;
  const TransitionTables& tables_;
  Tensor steps_;  ///< of each row, int64 [K U] on the device
  Tensor rows_;   ///< the sample of each row, int64 [K U] on the CPU
  std::int64_t per_sample_ = 0;
};

/// The paths of samples, in micro-batches: every sample once, for one term.
template <class Record>
class PathPoints {
 public:
  /// @param rollout the samples and their record
  /// @param term for whose states, its place in the objective
  /// @param units of the gradient step, single samples
  /// @param stream of this pass over the epoch's samples
  PathPoints(const Rollout<Record>& rollout, std::size_t term, const StepUnits& units,
             const Generator& stream)
      : rollout_(rollout),
        own_(states_of(rollout.record, term)),
        stream_(stream.stream(Purpose::solver, term)),
        rows_(units.rows(1)) {}

  /// Paths a sample.
  std::int64_t per_sample() const { return 1; }
  /// Number of rows of all micro-batches together.
  std::int64_t count() const { return rows_.numel(); }
  /// The sample of each row of [first, last), int64 on the CPU.
  Tensor members(std::int64_t first, std::int64_t last) const {
    return rows_.slice(0, first, last);
  }

  /// The rows [first, last).
  /// @tparam RoleSet of the batch's velocities, which the term computes itself
  template <class RoleSet, class C>
  PathBatch<RoleSet, C> batch(std::int64_t first, std::int64_t last, C condition) const {
    const Tensor own = members(first, last);
    return {own_.states.index_select(1, on_device(own, own_.states.device())),
            own_.steps,
            rollout_.record.grid,
            rollout_.prompt.index_select(0, own),
            rollout_.id.index_select(0, own),
            std::move(condition),
            {},
            stream_,
            {}};
  }

 private:
  static const PathStates& states_of(const RecordedPaths& record, std::size_t term) {
    const bool has = term < record.of_term.size() && record.of_term[term].states.defined();
    expects(has, "record of the collector",
            "the states that each term asks for (context.path_steps)", "none");
    return record.of_term[term];
  }

  const Rollout<Record>& rollout_;
  const PathStates& own_;
  Generator stream_;
  Tensor rows_;  ///< the sample of each row, int64 on the CPU
};

}  // namespace contraflow
