#pragma once

/// @file
/// The concept Term.

#include <concepts>

#include <contraflow/objective/points.hpp>

namespace contraflow {

/// `T::Velocities`: the Roles whose velocities the term needs.
template <class T>
concept HasVelocityNeeds = requires {
  T::Velocities::size;
  { T::Velocities::template contains<Role::current> } -> std::convertible_to<bool>;
};

/// `T::Points`: ForwardProcess or RecordedTransitions, where it needs them.
template <class T>
concept HasPoints = std::same_as<typename T::Points, ForwardProcess> ||
    std::same_as<typename T::Points, RecordedTransitions>;

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

/// `T::records_mean`: the rollout must record the means of transitions, too.
template <class T>
concept HasRecordedMean = requires {
  requires T::records_mean;
};

/// A term of an objective: a loss a sample, and what it needs.
///
/// Valid expressions: those of HasVelocityNeeds, HasPoints, HasName and HasLoss; those of
/// HasSignal, HasKeep, HasPairs, HasGroups, HasData and HasRecordedMean where it uses them. Laws:
/// the loss of a sample depends on that sample (or pair, or group) alone; it is float32 or wider;
/// its gradient reaches only `current`.
template <class T>
concept Term = HasVelocityNeeds<T> && HasPoints<T> && HasName<T> && HasLoss<T>;

/// Says in a sentence why @p T is not a Term.
template <class T>
consteval bool explain_term() {
  static_assert(HasVelocityNeeds<T>,
                "contraflow: a Term must declare the velocities it needs: `using Velocities = "
                "contraflow::Roles<Role::current, ...>`");
  static_assert(HasPoints<T>,
                "contraflow: a Term must declare where it needs velocities: `using Points = "
                "contraflow::ForwardProcess` or `contraflow::RecordedTransitions`");
  static_assert(HasName<T>,
                "contraflow: a Term must have `static constexpr std::string_view name`");
  static_assert(HasLoss<T>,
                "contraflow: a Term must have `Tensor loss(batch, signal, statistics) const`, a "
                "template over the batch, that gives one loss a sample [B]");
  static_assert(int(HasPairs<T>) + int(HasGroups<T>) + int(HasData<T>) <= 1,
                "contraflow: a Term has batches of its own of one kind: pairs, groups or data; "
                "make a term of each and add them");
  static_assert(!HasKeep<T> || !(HasPairs<T> || HasGroups<T>),
                "contraflow: a Term that compares samples chooses them in `pairs` or `groups`; it "
                "has no `keep`");
  return true;
}

}  // namespace contraflow
