#pragma once

/// @file
/// Sums of terms, whose needs are known at compile time.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <tuple>
#include <utility>

#include <contraflow/objective/concept.hpp>

namespace contraflow {

namespace detail {

template <class T>
concept AnySum = requires {
  typename T::IsSum;
};

/// The velocities that terms need at points of one kind.
template <class Points, class T>
using VelocitiesAt =
    std::conditional_t<std::same_as<typename T::Points, Points>, typename T::Velocities, Roles<>>;

/// `a.loss_with(b, weight, batch, signal, statistics)`: a computes `a + weight b` in one operation.
template <class A, class B, class Batch>
concept Absorbs = requires(const A& a, const B& b, const Batch& batch, const Tensor& signal,
                           Statistics& statistics) {
  { a.loss_with(b, 1.0, batch, signal, statistics) } -> std::convertible_to<Tensor>;
};

}  // namespace detail

/// A weighted sum of terms: the objective of a run.
///
/// Made by `a + w * b`. Its needs are the union of its terms' needs, known at compile time: the
/// trainer computes exactly these velocities and the rollout stores exactly these tensors.
template <class... Terms>
struct Sum {
  using IsSum = void;  ///< marks a sum
  static_assert((explain_term<Terms>() && ...));
  static constexpr std::size_t size = sizeof...(Terms);  ///< number of terms

  std::tuple<Terms...> terms;        ///< in the order of the sum
  std::array<double, size> weights;  ///< of the terms, above 0

  /// Velocities needed at samples noised afresh.
  using ForwardVelocities = meta::Union<detail::VelocitiesAt<ForwardProcess, Terms>...>;
  /// Velocities needed at recorded transitions.
  using TransitionVelocities = meta::Union<detail::VelocitiesAt<RecordedTransitions, Terms>...>;
  /// All of them.
  using AllVelocities = meta::Union<ForwardVelocities, TransitionVelocities>;

  /// Whether a term looks at samples noised afresh.
  static constexpr bool uses_forward = ForwardVelocities::size > 0;
  /// Whether a term looks at recorded transitions.
  static constexpr bool uses_transitions = TransitionVelocities::size > 0;
  /// Whether a term needs the means of transitions.
  static constexpr bool records_mean = (HasRecordedMean<Terms> || ...);
  /// Whether a term compares pairs of samples.
  static constexpr bool is_paired = (HasPairs<Terms> || ...);
  static_assert(((HasPairs<Terms> ? 1 : 0) + ... + 0) <= 1,
                "contraflow: at most one term of an objective may compare pairs of samples");
  static_assert(!(is_paired && uses_transitions),
                "contraflow: a term that compares pairs cannot be added to one that trains on "
                "transitions");

  /// Who collects: `old` where a term is defined relative to the policy that collected.
  static constexpr Role collector =
      AllVelocities::template contains<Role::old> ? Role::old : Role::current;

  /// What each term takes from the scores, [N] or undefined.
  std::array<Tensor, size> signals(const Scores& scores) const {
    return each([&](const auto& term) {
      if constexpr (HasSignal<std::remove_cvref_t<decltype(term)>>) {
        return Tensor(term.signal(scores));
      } else {
        return Tensor();
      }
    });
  }

  /// The samples that some term wants, bool [N]; all if no term has an opinion.
  Tensor keep(const Scores& scores) const {
    Tensor wanted;
    std::apply([&](const auto&... term) { (merge_keep(wanted, term, scores), ...); }, terms);
    return wanted.defined() ? wanted : at::ones_like(scores.group, at::kBool);
  }

  /// What is shuffled and kept together, as positions int64 [U, k]: samples (k = 1) or pairs.
  Tensor units(const Scores& scores) const {
    if constexpr (is_paired) {
      Tensor result;
      std::apply([&](const auto&... term) { (take_pairs(result, term, scores), ...); }, terms);
      return result;
    } else {
      return keep(scores).nonzero();
    }
  }

  /// The weighted losses of all terms at points of one kind, [B].
  template <class Points, class Batch>
  Tensor loss(const Batch& batch, const std::array<Tensor, size>& signal,
              Statistics& statistics) const {
    Tensor total;
    add_terms<0, Points>(total, batch, signal, statistics);
    return total;
  }

 private:
  template <class F>
  std::array<Tensor, size> each(F&& f) const {
    return std::apply([&](const auto&... term) { return std::array<Tensor, size>{f(term)...}; },
                      terms);
  }

  template <class T>
  static void merge_keep(Tensor& wanted, const T& term, const Scores& scores) {
    if constexpr (HasKeep<T>) {
      const Tensor own = term.keep(scores);
      wanted = wanted.defined() ? wanted.logical_or(own) : own;
    }
  }

  template <class T>
  static void take_pairs(Tensor& result, const T& term, const Scores& scores) {
    if constexpr (HasPairs<T>) result = term.pairs(scores);
  }

  template <std::size_t I>
  using TermAt = std::tuple_element_t<I, std::tuple<Terms...>>;

  template <std::size_t I, class Batch>
  static constexpr bool absorbs_next() {
    if constexpr (I + 1 < size) {
      return detail::Absorbs<TermAt<I>, TermAt<I + 1>, Batch>;
    } else {
      return false;
    }
  }

  template <std::size_t I, class Points, class Batch>
  void add_terms(Tensor& total, const Batch& batch, const std::array<Tensor, size>& signal,
                 Statistics& statistics) const {
    if constexpr (I < size) {
      if constexpr (!std::same_as<typename TermAt<I>::Points, Points>) {
        add_terms<I + 1, Points>(total, batch, signal, statistics);
      } else if constexpr (absorbs_next<I, Batch>()) {
        const double relative = weights[I + 1] / weights[I];
        add(total, weights[I],
            std::get<I>(terms).loss_with(std::get<I + 1>(terms), relative, batch, signal[I],
                                         statistics));
        add_terms<I + 2, Points>(total, batch, signal, statistics);
      } else {
        const Tensor loss = std::get<I>(terms).loss(batch, signal[I], statistics);
        statistics.add(TermAt<I>::name, loss);
        add(total, weights[I], loss);
        add_terms<I + 1, Points>(total, batch, signal, statistics);
      }
    }
  }

  static void add(Tensor& total, double weight, const Tensor& loss) {
    const Tensor weighted = weight == 1 ? loss : loss * weight;
    total = total.defined() ? total + weighted : weighted;
  }
};

/// A term, or a sum of them.
template <class O>
concept Objective = detail::AnySum<O> || Term<O>;

/// An objective as a Sum.
template <class O>
auto as_sum(O objective) {
  if constexpr (detail::AnySum<O>) {
    return objective;
  } else {
    return Sum<O>{{std::move(objective)}, {1.0}};
  }
}

/// @p weight times an objective.
/// @throws Error unless the weight is finite and above 0
template <Objective O>
auto operator*(double weight, O objective) {
  expects(std::isfinite(weight) && weight > 0, "weight", "a finite number above 0", weight);
  auto sum = as_sum(std::move(objective));
  for (double& own : sum.weights) own *= weight;
  return sum;
}

/// The sum of two objectives.
template <Objective A, Objective B>
auto operator+(A a, B b) {
  auto left = as_sum(std::move(a));
  auto right = as_sum(std::move(b));
  const auto joined = []<class... X, class... Y>(Sum<X...> x, Sum<Y...> y) {
    Sum<X..., Y...> sum{std::tuple_cat(std::move(x.terms), std::move(y.terms)), {}};
    std::copy(x.weights.begin(), x.weights.end(), sum.weights.begin());
    std::copy(y.weights.begin(), y.weights.end(), sum.weights.begin() + sizeof...(X));
    return sum;
  };
  return joined(std::move(left), std::move(right));
}

/// Says in a sentence what @p P lacks for the objective @p S, a Sum.
template <class S, class P>
consteval bool explain_roles() {
  using Needed = typename S::AllVelocities;
  using Available = typename P::Available;
  static_assert(
      !Needed::template contains<Role::current> || Available::template contains<Role::current>,
      "contraflow: this objective needs the velocity of the role `current`, and this "
      "Policy has no such role");
  static_assert(!Needed::template contains<Role::old> || Available::template contains<Role::old>,
                "contraflow: this objective needs the velocity of the role `old`, and this Policy "
                "has no such role: use SnapshotPolicy, or an objective without `old` such as Grpo");
  static_assert(
      !Needed::template contains<Role::reference> || Available::template contains<Role::reference>,
      "contraflow: this objective needs the velocity of the role `reference`, and this "
      "Policy has no such role: use SnapshotPolicy, or leave out the KL term");
  return true;
}

}  // namespace contraflow
