#pragma once

/// @file
/// The concept Term.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/objective/points.hpp>

namespace contraflow {

/// `T::Velocities`: the Roles whose velocities the term needs.
template <class T>
concept HasVelocityNeeds = requires {
  T::Velocities::size;
  { T::Velocities::template contains<Role::current> } -> std::convertible_to<bool>;
};

/// `T::Points`: ForwardProcess, RecordedTransitions or RecordedPath, where it needs them.
template <class T>
concept HasPoints = std::same_as<typename T::Points, ForwardProcess> ||
    std::same_as<typename T::Points, RecordedTransitions> ||
    std::same_as<typename T::Points, RecordedPath>;

/// Whether a term looks at the path that made a sample.
template <class T>
concept IsOnPath = std::same_as<typename T::Points, RecordedPath>;

/// `t.steps(grid, generator)`: the steps at which a term on paths wants the states of all samples,
/// counted from 0 at the noisiest, increasing. It may draw them; they are the same for all samples
/// of an epoch.
template <class T>
concept HasSteps = requires(const T& term, const TimeGrid& grid, Generator& generator) {
  { term.steps(grid, generator) } -> std::same_as<std::vector<std::size_t>>;
};

/// `t.settings()`: names and texts of options in which the ranks of a run must agree.
template <class T>
concept HasTermSettings = requires(const T& term) {
  { term.settings() } -> std::same_as<std::vector<std::pair<std::string, std::string>>>;
};

/// `T::name`: under which its loss is reported.
template <class T>
concept HasName = requires {
  { T::name } -> std::convertible_to<std::string_view>;
};

/// `t.loss(batch, signal, statistics)`: a loss a sample [B], from no more than the term declares.
template <class T>
concept HasLoss = HasVelocityNeeds<T> && HasPoints<T> &&
    requires(const T& term, const typename T::Points::template Batch<typename T::Velocities>& batch,
             const Tensor& signal, Statistics& statistics) {
  { term.loss(batch, signal, statistics) } -> std::convertible_to<Tensor>;
};

/// `t.signal(scores)`: what the term takes from the scores [N]: r, an advantage, a weight.
template <class T>
concept HasSignal = requires(const T& term, const Scores& scores) {
  { term.signal(scores) } -> std::convertible_to<Tensor>;
};

/// `t.keep(scores)`: bool [N], the samples that teach the term anything, or undefined for all. The
/// term is given no others, and its mean is over these.
template <class T>
concept HasKeep = requires(const T& term, const Scores& scores) {
  { term.keep(scores) } -> std::convertible_to<Tensor>;
};

/// `t.pairs(scores)`: the term compares two samples of a group, given as positions int64 [P, 2];
/// its batches hold complete pairs, side by side, under the same noise and time.
template <class T>
concept HasPairs = requires(const T& term, const Scores& scores) {
  { term.pairs(scores) } -> std::convertible_to<Tensor>;
};

/// `t.groups(scores)`: the term compares all samples of a group, given as positions int64 [G, K];
/// its batches hold complete groups, K rows side by side (`batch.unit_size`), under the same noise
/// and time.
template <class T>
concept HasGroups = requires(const T& term, const Scores& scores) {
  { term.groups(scores) } -> std::convertible_to<Tensor>;
};

/// `t.data(prompt, generator)`: the term looks at data in the place of the samples of an epoch: one
/// clean sample for each of them, of the same prompt, int64 [N], giving x0 [N, ...]. The rows of
/// the generator are those samples.
template <class T>
concept HasData = requires(const T& term, const Tensor& prompt, Generator& generator) {
  { term.data(prompt, generator) } -> std::convertible_to<Tensor>;
};

/// Whether a term has batches of its own: it compares samples, or looks at data.
template <class T>
concept HasOwnBatches = HasPairs<T> || HasGroups<T> || HasData<T>;

/// `T::collector`: who collects, a Role, where it is not `old` for a term that looks at `old`, or
/// `current` for one that does not.
template <class T>
concept HasCollectingRole = requires {
  { T::collector } -> std::convertible_to<Role>;
};

/// `t.current_steps()`: gradient steps at the beginning of a run for which `current` collects
/// whoever does so behind them.
template <class T>
concept HasCurrentSteps = requires(const T& term) {
  { term.current_steps() } -> std::convertible_to<std::int64_t>;
};

/// `T::records_mean`: the rollout must record the means of transitions, too.
template <class T>
concept HasRecordedMean = requires {
  requires T::records_mean;
};

/// A term of an objective: a loss a sample, and what it needs.
///
/// Valid expressions: those of HasVelocityNeeds, HasPoints, HasName and HasLoss; those of
/// HasSignal, HasKeep, HasPairs, HasGroups, HasData and HasRecordedMean where it uses them; that of
/// HasSteps where it looks at paths; of HasCollectingRole, HasCurrentSteps and HasTermSettings
/// where it has a say in who collects, or options to agree in. Laws: the loss of a sample depends
/// on that sample (or pair, or group) alone; it is float32 or wider; its gradient reaches only
/// `current`.
template <class T>
concept Term = HasVelocityNeeds<T> && HasPoints<T> && HasName<T> && HasLoss<T> &&
    (!IsOnPath<T> || HasSteps<T>);

/// Says in a sentence why @p T is not a Term.
template <class T>
consteval bool explain_term() {
  static_assert(HasVelocityNeeds<T>,
                "contraflow: a Term must declare the velocities it needs: `using Velocities = "
                "contraflow::Roles<Role::current, ...>`");
  static_assert(HasPoints<T>,
                "contraflow: a Term must declare where it needs velocities: `using Points = "
                "contraflow::ForwardProcess`, `contraflow::RecordedTransitions` or "
                "`contraflow::RecordedPath`");
  static_assert(HasName<T>,
                "contraflow: a Term must have `static constexpr std::string_view name`");
  static_assert(HasLoss<T>,
                "contraflow: a Term must have `Tensor loss(batch, signal, statistics) const`, a "
                "template over the batch, that gives one loss a sample [B]");
  if constexpr (HasPoints<T>) {
    static_assert(!IsOnPath<T> || HasSteps<T>,
                  "contraflow: a Term on the path of samples must say at which steps it wants "
                  "their states: `std::vector<std::size_t> steps(grid, generator) const`");
    if constexpr (IsOnPath<T> && HasVelocityNeeds<T>) {
      static_assert(T::Velocities::size == 1 && T::Velocities::template contains<Role::current>,
                    "contraflow: a Term on the path of samples asks for velocities itself: declare "
                    "`using Velocities = contraflow::Roles<Role::current>`");
    }
  }
  static_assert(int(HasPairs<T>) + int(HasGroups<T>) + int(HasData<T>) <= 1,
                "contraflow: a Term has batches of its own of one kind: pairs, groups or data; "
                "make a term of each and add them");
  static_assert(!HasKeep<T> || !(HasPairs<T> || HasGroups<T>),
                "contraflow: a Term that compares samples chooses them in `pairs` or `groups`; it "
                "has no `keep`");
  return true;
}

}  // namespace contraflow
