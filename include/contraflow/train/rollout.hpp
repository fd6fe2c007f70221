#pragma once

/// @file
/// Samples of an epoch, and what of their making is recorded.

#include <concepts>
#include <cstddef>
#include <tuple>
#include <utility>
#include <vector>

#include <contraflow/objective/algebra.hpp>
#include <contraflow/solver/integrate.hpp>

namespace contraflow {

/// The record of an objective that needs none: no trajectory exists.
struct NothingRecorded {
  /// Nothing.
  NothingRecorded select(const Tensor&) const { return {}; }
};

/// The record of an objective that trains on transitions: the stochastic steps of a rollout.
/// @par Shape
/// states [M, N, ...], each distinct state once; log_prob [S, N]; mean [S, N, ...] if recorded
template <bool WithMean>
struct RecordedSteps {
  std::vector<Transition> transitions;  ///< of the S recorded steps
  std::vector<std::int64_t> before;     ///< row of `states` before each recorded step
  std::vector<std::int64_t> after;      ///< row of `states` behind it
  Tensor states;                        ///< float32
  Tensor log_prob;                      ///< under the collecting policy, float32
  Tensor mean;                          ///< of the transitions, float32; undefined if not recorded
  std::vector<double> sigma;            ///< at which each step starts
  std::vector<double> dt = {};          ///< length of each step, below 0; empty where nobody asks
  Tensor weight = {};                   ///< of policy gradients, [S, N], float32; undefined: 1

  /// The samples @p rows, int64 [K] on the device of the record.
  RecordedSteps select(const Tensor& rows) const {
    RecordedSteps fewer = *this;
    fewer.states = states.index_select(1, rows);
    fewer.log_prob = log_prob.index_select(1, rows);
    if (mean.defined()) fewer.mean = mean.index_select(1, rows);
    if (weight.defined()) fewer.weight = weight.index_select(1, rows);
    return fewer;
  }
};

/// States of a path at some steps of a grid.
/// @par Shape
/// states [M, N, ...], float32
struct PathStates {
  std::vector<std::size_t> steps = {};  ///< before which, M of them, increasing
  Tensor states = {};                   ///< see above
};

/// The record of an objective on the gradient of the reward: states from which the last steps of
/// each sample's path can be made once more.
struct RecordedPaths {
  TimeGrid grid = uniform_grid(1);       ///< of the path
  std::vector<PathStates> of_term = {};  ///< what each term asked for; nothing for other terms

  /// The samples @p rows, int64 [K] on the device of the record.
  RecordedPaths select(const Tensor& rows) const {
    RecordedPaths fewer = *this;
    for (PathStates& own : fewer.of_term) {
      if (own.states.defined()) own.states = own.states.index_select(1, rows);
    }
    return fewer;
  }
};

/// A record of several kinds.
template <class... Records>
struct Recorded : Records... {
  /// The samples @p rows, int64 [K] on the device of the record.
  Recorded select(const Tensor& rows) const {
    return {static_cast<const Records&>(*this).select(rows)...};
  }
};

namespace detail {
template <class S, bool transitions = S::uses_transitions, bool paths = S::uses_paths>
struct RecordFor {
  using type = NothingRecorded;
};
template <class S>
struct RecordFor<S, true, false> {
  using type = RecordedSteps<S::records_mean>;
};
template <class S>
struct RecordFor<S, false, true> {
  using type = RecordedPaths;
};
template <class S>
struct RecordFor<S, true, true> {
  using type = Recorded<RecordedSteps<S::records_mean>, RecordedPaths>;
};
}  // namespace detail

/// What the rollout must record for the objective @p S, a Sum.
template <class S>
using RecordOf = typename detail::RecordFor<S>::type;

/// The samples of an epoch.
///
/// Their positions 0 ... N - 1 are the only numbering there is. `id` names their random numbers:
/// what is drawn for a sample does not depend on which others are left beside it.
/// @par Shape
/// x0 [N, ...]; prompt, group and id int64 [N] on the CPU
template <class Record>
struct Rollout {
  Tensor x0;                                 ///< clean samples, float32
  Tensor prompt;                             ///< number of each sample's prompt
  Tensor group;                              ///< which samples were drawn for one prompt together
  Tensor id;                                 ///< number of each sample in its epoch
  [[no_unique_address]] Record record = {};  ///< what the objective needs beside them

  /// Number of samples.
  std::int64_t size() const { return x0.size(0); }
  /// The samples @p rows, int64 [K].
  Rollout select(const Tensor& rows) const {
    const Tensor here = on_device(rows, x0.device());
    return {x0.index_select(0, here), prompt.index_select(0, rows), group.index_select(0, rows),
            id.index_select(0, rows), record.select(here)};
  }
};

/// Throws Error unless a rollout has what @ref Rollout says.
template <class Record>
void expects_whole(const Rollout<Record>& rollout) {
  if (!rollout.x0.defined() || rollout.x0.dim() < 2 || !rollout.x0.is_floating_point()) {
    throw Error("x0 of the collector", "floating-point samples [N, ...]", shape_text(rollout.x0));
  }
  const auto expects_numbers = [&](const Tensor& numbers, const char* argument) {
    const bool fits = numbers.defined() && numbers.dim() == 1 && numbers.device().is_cpu() &&
                      numbers.scalar_type() == at::kLong && numbers.size(0) == rollout.x0.size(0);
    if (fits) return;
    throw Error(argument, "int64 [" + shown(rollout.x0.size(0)) + "] on the CPU, one a sample",
                shape_text(numbers) + (numbers.defined() ? " of " + shown(numbers.dtype()) : ""));
  };
  expects_numbers(rollout.prompt, "prompt of the collector");
  expects_numbers(rollout.group, "group of the collector");
  expects_numbers(rollout.id, "id of the collector");
}

/// What is asked of a record.
struct RecordPlan {
  double fraction =
      1;  ///< share of the grid's steps whose transitions are recorded, from the first
  std::vector<std::vector<std::size_t>> path_steps = {};  ///< see Sum::path_steps()
};

namespace detail {
/// Room for @p count tensors like one.
inline Tensor room_for(std::int64_t count, const Tensor& like) {
  auto shape = like.sizes().vec();
  shape.insert(shape.begin(), count);
  return at::empty(shape, like.options());
}
}  // namespace detail

/// Plans and fills the record of a rollout.
template <class Record>
struct Recorder {
  /// There is nothing to plan.
  Recorder(Record&, const auto&, const TimeGrid&, const RecordPlan&, const Tensor&) {}
  /// Watches nothing.
  auto hook(std::int64_t) { return NoHook{}; }
};

/// Plans and fills a record of stochastic steps.
template <bool WithMean>
class Recorder<RecordedSteps<WithMean>> {
 public:
  using Record = RecordedSteps<WithMean>;  ///< what is filled

  /// @param record is given its tensors
  /// @param solver a StochasticSolver
  /// @param grid the grid of the rollout
  /// @param plan share of the grid's steps to record
  /// @param x0 the samples of the rollout [N, ...], of which only shape and device matter
  /// @throws Error if no step of the solver is stochastic
  template <class S>
  Recorder(Record& record, const S& solver, const TimeGrid& grid, const RecordPlan& plan,
           const Tensor& x0)
      : record_(record), slot_(grid.steps(), -1) {
    // The small addition keeps a product such as 0.29 * 100 from losing its last step to rounding.
    const auto wanted =
        static_cast<std::size_t>(plan.fraction * static_cast<double>(grid.steps()) + 1e-9);
    std::int64_t rows = 0;
    for (std::size_t i = 0; i < std::max<std::size_t>(wanted, 1); ++i) {
      const Transition transition = solver.transition(grid.step(i));
      if (!transition.is_stochastic()) continue;
      slot_[i] = static_cast<std::int64_t>(record.transitions.size());
      const bool continues = i > 0 && slot_[i - 1] >= 0;
      record.before.push_back(continues ? record.after.back() : rows++);
      record.after.push_back(rows++);
      record.transitions.push_back(transition);
      record.sigma.push_back(grid.step(i).from);
      record.dt.push_back(grid.step(i).to - grid.step(i).from);
    }
    const auto steps = static_cast<std::int64_t>(record.transitions.size());
    expects(steps > 0, "solver", "at least one stochastic step to train on",
            "noise of strength 0 at every recorded step");
    record.states = detail::room_for(rows, x0);
    record.log_prob = at::empty({steps, x0.size(0)}, x0.options());
    if (WithMean) record.mean = detail::room_for(steps, x0);
  }

  /// The hook of `integrate` for the samples from @p first on.
  auto hook(std::int64_t first) {
    return [this, first](const Step& step, const Tensor& x, const Tensor& next, const auto& state) {
      const std::int64_t slot = slot_[step.index];
      if (slot < 0) return;
      const auto k = static_cast<std::size_t>(slot);
      const auto rows = [&](const Tensor& of, std::int64_t row) {
        return of.select(0, row).narrow(0, first, x.size(0));
      };
      const bool continues = k > 0 && record_.after[k - 1] == record_.before[k];
      if (!continues) rows(record_.states, record_.before[k]).copy_(x);
      rows(record_.states, record_.after[k]).copy_(next);
      rows(record_.log_prob, slot).copy_(record_.transitions[k].log_density(next, state.mean));
      if constexpr (WithMean) rows(record_.mean, slot).copy_(state.mean);
    };
  }

 private:
  Record& record_;
  std::vector<std::int64_t> slot_;  ///< of each step of the grid; -1: not recorded
};

/// Plans and fills a record of paths.
template <>
class Recorder<RecordedPaths> {
 public:
  /// @param record is given its tensors
  /// @param grid the grid of the rollout
  /// @param plan steps at which each term wants states
  /// @param x0 the samples of the rollout [N, ...], of which only shape and device matter
  Recorder(RecordedPaths& record, const auto&, const TimeGrid& grid, const RecordPlan& plan,
           const Tensor& x0)
      : record_(record) {
    record.grid = grid;
    for (const auto& steps : plan.path_steps) {
      PathStates& own = record.of_term.emplace_back(PathStates{steps});
      if (!steps.empty()) own.states = detail::room_for(std::int64_t(steps.size()), x0);
    }
  }

  /// The hook of `integrate` for the samples from @p first on.
  auto hook(std::int64_t first) {
    return [this, first](const Step& step, const Tensor& x, const Tensor&, const auto&) {
      for (const PathStates& own : record_.of_term) {
        for (std::size_t k = 0; k < own.steps.size(); ++k) {
          if (own.steps[k] != step.index) continue;
          own.states[std::int64_t(k)].narrow(0, first, x.size(0)).copy_(x);
        }
      }
    };
  }

 private:
  RecordedPaths& record_;
};

/// Plans and fills a record of several kinds.
template <class... Records>
class Recorder<Recorded<Records...>> {
 public:
  /// As those of its kinds.
  Recorder(Recorded<Records...>& record, const auto& solver, const TimeGrid& grid,
           const RecordPlan& plan, const Tensor& x0)
      : each_{Recorder<Records>(record, solver, grid, plan, x0)...} {}

  /// The hook of `integrate` for the samples from @p first on.
  auto hook(std::int64_t first) {
    return std::apply(
        [&](auto&... recorder) {
          return [... hooks = recorder.hook(first)](const Step& step, const Tensor& x,
                                                    const Tensor& next, const auto& state) {
            (hooks(step, x, next, state), ...);
          };
        },
        each_);
  }

 private:
  std::tuple<Recorder<Records>...> each_;
};

/// Clean samples from noise by a Solver or a Sampler.
template <class S, class V, class Hook = NoHook>
Tensor sampled(const S& solver, V& velocity, const Tensor& noise, const TimeGrid& grid,
               Generator& generator, Hook&& hook = {}) {
  const at::NoGradGuard no_gradient;
  if constexpr (Sampler<S>) {
    return solver.sample(velocity, noise, generator);
  } else {
    return integrate(solver, velocity, noise, grid, generator, std::forward<Hook>(hook));
  }
}

}  // namespace contraflow
