#pragma once

/// @file
/// Sums of terms, whose needs are known at compile time.

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include <contraflow/objective/concept.hpp>

namespace contraflow {

namespace detail {

template <class T>
concept AnySum = requires {
  typename T::IsSum;
};

/// Whether a type was meant to be a term: it has one of the things that terms declare.
template <class T>
concept MeantAsTerm = AnySum<T> || HasVelocityNeeds<T> || requires {
  typename T::Points;
};

/// `a.loss_with(b, weight, batch, signal, statistics)`: a computes `a + weight b` in one operation.
template <class A, class B, class Batch>
concept Absorbs = requires(const A& a, const B& b, const Batch& batch, const Tensor& signal,
                           Statistics& statistics) {
  { a.loss_with(b, 1.0, batch, signal, statistics) } -> std::convertible_to<Tensor>;
};

}  // namespace detail

/// The terms that are evaluated together at points of one kind: those that see single samples.
template <class Points>
struct TermsAt {
  using At = Points;  ///< where
  /// Whether a term is one of them.
  template <std::size_t, class T>
  static constexpr bool contains = std::same_as<typename T::Points, Points> && !HasOwnBatches<T>;
};
/// A term with batches of its own: it compares pairs or groups, or looks at data.
template <std::size_t I>
struct OwnTerm {
  using At = ForwardProcess;  ///< where
  /// Whether a term is this one.
  template <std::size_t J, class>
  static constexpr bool contains = I == J;
};

/// A term on the path of the samples: each has states of its own.
template <std::size_t I>
struct PathTerm {
  using At = RecordedPath;  ///< where
  /// Whether a term is this one.
  template <std::size_t J, class>
  static constexpr bool contains = I == J;
};

namespace detail {

/// The velocities that the terms of a selection need.
template <class Selection, class Numbers, class... Terms>
struct SelectedVelocities;
template <class Selection, std::size_t... I, class... Terms>
struct SelectedVelocities<Selection, std::index_sequence<I...>, Terms...> {
  using type = meta::Union<std::conditional_t<Selection::template contains<I, Terms>,
                                              typename Terms::Velocities, Roles<>>...>;
};

/// Who is to collect for a term; nothing where it does not mind.
template <class T>
consteval std::optional<Role> wanted_collector() {
  if constexpr (HasCollectingRole<T>) {
    return T::collector;
  } else if constexpr (T::Velocities::template contains<Role::old>) {
    return Role::old;
  } else {
    return std::nullopt;
  }
}
/// Whom the first term that minds names; `current` where none does.
template <class... Terms>
consteval Role collector_of() {
  std::optional<Role> role;
  ((role = role ? role : wanted_collector<Terms>()), ...);
  return role.value_or(Role::current);
}

}  // namespace detail

/// What a term takes of an epoch, and its share in a gradient step.
struct TermShare {
  Tensor signal = {};  ///< what it takes from the scores [N], on the device of the samples
  Tensor keep = {};    ///< the samples it wants, bool [N] on the CPU; undefined: all
  double scale = 0;    ///< weight over the number of its points in the gradient step
};

/// A weighted sum of terms: the objective of a run.
///
/// Made by `a + w * b`. Its needs are the union of its terms' needs, known at compile time: the
/// trainer computes exactly these velocities and the rollout stores exactly these tensors. The
/// gradient of a sum is the sum of its terms' gradients on the same draws: each term sees the
/// samples that it wants and averages over them, whatever stands beside it.
template <class... Terms>
struct Sum {
  using IsSum = void;  ///< marks a sum
  static_assert((explain_term<Terms>() && ...));
  static constexpr std::size_t size = sizeof...(Terms);  ///< number of terms
  /// What each term takes of an epoch.
  using Shares = std::array<TermShare, size>;

  std::tuple<Terms...> terms;        ///< in the order of the sum
  std::array<double, size> weights;  ///< of the terms, above 0

  /// Velocities that the terms of a selection need, such as TermsAt<ForwardProcess>.
  template <class Selection>
  using VelocitiesOf =
      typename detail::SelectedVelocities<Selection, std::index_sequence_for<Terms...>,
                                          Terms...>::type;

  /// All of them.
  using AllVelocities = meta::Union<typename Terms::Velocities...>;

  /// Whether a term looks at single samples noised afresh.
  static constexpr bool uses_forward = VelocitiesOf<TermsAt<ForwardProcess>>::size > 0;
  /// Whether a term looks at recorded transitions.
  static constexpr bool uses_transitions = VelocitiesOf<TermsAt<RecordedTransitions>>::size > 0;
  /// Whether a term looks at the path of samples, for the gradient of the reward.
  static constexpr bool uses_paths = (IsOnPath<Terms> || ...);
  /// Whether a term compares samples, or takes their scores.
  static constexpr bool compares_samples =
      ((HasSignal<Terms> || HasKeep<Terms> || HasPairs<Terms> || HasGroups<Terms>) || ...);
  /// Whether a term has batches of its own.
  static constexpr bool has_own_batches = (HasOwnBatches<Terms> || ...);
  /// Whether a term needs the means of transitions.
  static constexpr bool records_mean = (HasRecordedMean<Terms> || ...);
  static_assert(
      ((!HasOwnBatches<Terms> || std::same_as<typename Terms::Points, ForwardProcess>)&&...),
      "contraflow: a term that compares samples or looks at data does so on the forward process: "
      "declare `using Points = contraflow::ForwardProcess`");

  /// Who collects: whom a term names, or `old` where one is defined relative to the policy that
  /// collected.
  static constexpr Role collector = detail::collector_of<Terms...>();
  static_assert(((detail::wanted_collector<Terms>().value_or(detail::collector_of<Terms...>()) ==
                  detail::collector_of<Terms...>()) &&
                 ...),
                "contraflow: the terms of this sum are defined relative to different roles that "
                "collect, such as `old` for Nft and `sampler` for Crd: train on one of them");
  /// The roles that a policy keeps: whose velocities are needed, and who collects.
  using KeptRoles = meta::Union<AllVelocities, Roles<collector>>;

  /// What each term takes of an epoch.
  /// @param scores of its samples
  /// @param device of the samples
  Shares shares(const Scores& scores, const at::Device& device) const {
    Shares all;
    for_each_term([&](auto index, const auto& term) {
      using T = std::remove_cvref_t<decltype(term)>;
      TermShare& share = all[index()];
      if constexpr (HasSignal<T>) share.signal = on_device(term.signal(scores), device);
      if constexpr (HasKeep<T>) share.keep = only_some(term.keep(scores));
    });
    return all;
  }

  /// The steps at which each term on paths wants states, in the order of the terms; none for
  /// others.
  /// @param grid of the rollout
  /// @param stream of the epoch, by which steps are drawn
  std::vector<std::vector<std::size_t>> path_steps(const TimeGrid& grid,
                                                   const Generator& stream) const {
    std::vector<std::vector<std::size_t>> all(size);
    for_each_term([&](auto index, const auto& term) {
      if constexpr (IsOnPath<std::remove_cvref_t<decltype(term)>>) {
        Generator own = stream.stream(Purpose::times, index());
        all[index()] = term.steps(grid, own);
      }
    });
    return all;
  }
  /// Who collects behind so many gradient steps: `current` while a term says so.
  Role collector_at(std::int64_t gradient_steps) const {
    bool begins = false;
    for_each_term([&](auto, const auto& term) {
      if constexpr (HasCurrentSteps<std::remove_cvref_t<decltype(term)>>) {
        begins = begins || gradient_steps < term.current_steps();
      }
    });
    return begins ? Role::current : collector;
  }
  /// Calls @p body(name, text) for each option of a term in which ranks must agree.
  template <class Body>
  void for_each_setting(Body&& body) const {
    for_each_term([&](auto, const auto& term) {
      if constexpr (HasTermSettings<std::remove_cvref_t<decltype(term)>>) {
        for (const auto& [name, text] : term.settings()) body(name, text);
      }
    });
  }

  /// Calls @p body(selection) for each set of terms that is evaluated together.
  template <class Body>
  static void for_each_selection(Body&& body) {
    if constexpr (uses_forward) body(TermsAt<ForwardProcess>{});
    [&]<std::size_t... I>(std::index_sequence<I...>) { (call_if_own<I>(body), ...); }
    (std::index_sequence_for<Terms...>{});
    if constexpr (uses_transitions) body(TermsAt<RecordedTransitions>{});
  }

  /// What is shuffled and kept together for a selection, as positions int64 [U, k] on the CPU:
  /// samples (k = 1) that some of its terms wants, pairs, or groups.
  /// @param shares see shares()
  /// @param count number of samples N
  template <class Selection>
  Tensor units(Selection, const Shares& shares, std::int64_t count) const {
    Tensor wanted = at::zeros({count}, at::kBool);
    for_each_of<Selection>([&](auto index, const auto&) {
      const Tensor& keep = shares[index()].keep;
      wanted = keep.defined() ? wanted.logical_or(keep) : at::ones_like(wanted);
    });
    return wanted.nonzero();
  }
  /// The pairs or groups of a term; for one that looks at data all samples, in whose place they
  /// stand.
  template <std::size_t I>
  Tensor own_units(OwnTerm<I>, const Scores& scores) const {
    if constexpr (HasData<TermAt<I>>) {
      return at::arange(scores.group.numel(), at::kLong).unsqueeze(1);
    } else if constexpr (HasGroups<TermAt<I>>) {
      return Tensor(std::get<I>(terms).groups(scores)).to(at::kCPU);
    } else {
      return Tensor(std::get<I>(terms).pairs(scores)).to(at::kCPU);
    }
  }

  /// Sets each term's scale for a gradient step.
  /// @param shares are given their scales
  /// @param members positions of the samples of the step, int64 [M] on the CPU
  /// @param points at which each is looked
  template <class Selection>
  void set_scales(Shares& shares, const Tensor& members, std::int64_t points) const {
    for_each_of<Selection>([&](auto index, const auto&) {
      TermShare& share = shares[index()];
      const std::int64_t wanted =
          share.keep.defined()
              ? share.keep.index_select(0, members).sum().template item<std::int64_t>()
              : members.numel();
      share.scale = wanted > 0 ? weights[index()] / static_cast<double>(wanted * points) : 0;
    });
  }

  /// The share of a micro-batch in the loss of a gradient step: a sum over its samples, without
  /// dimensions; undefined where no term wants any of them.
  /// @param batch of the selection's points
  /// @param members positions of its samples, int64 [B] on the CPU
  /// @param shares see shares() and set_scales()
  /// @param statistics are told the loss of each term
  template <class Selection, class Batch>
  Tensor loss(const Batch& batch, const Tensor& members, const Shares& shares,
              Statistics& statistics) const {
    Tensor total;
    add_terms<0, Selection>(total, batch, members, shares, statistics);
    return total;
  }

 private:
  template <std::size_t I>
  using TermAt = std::tuple_element_t<I, std::tuple<Terms...>>;

  template <class F>
  void for_each_term(F&& f) const {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (f(std::integral_constant<std::size_t, I>{}, std::get<I>(terms)), ...);
    }
    (std::index_sequence_for<Terms...>{});
  }
  template <class Selection, class F>
  void for_each_of(F&& f) const {
    for_each_term([&](auto index, const auto& term) {
      using T = std::remove_cvref_t<decltype(term)>;
      if constexpr (Selection::template contains<decltype(index)::value, T>) f(index, term);
    });
  }
  template <std::size_t I, class Body>
  static void call_if_own(Body&& body) {
    if constexpr (IsOnPath<TermAt<I>>) {
      body(PathTerm<I>{});
    } else if constexpr (HasOwnBatches<TermAt<I>>) {
      body(OwnTerm<I>{});
    }
  }

  /// Undefined where all are wanted.
  static Tensor only_some(const Tensor& keep) {
    if (!keep.defined()) return {};
    const Tensor host = keep.to(at::kCPU);
    return host.all().template item<bool>() ? Tensor() : host;
  }
  static bool same_samples(const TermShare& a, const TermShare& b) {
    if (a.keep.defined() != b.keep.defined()) return false;
    return !a.keep.defined() || at::equal(a.keep, b.keep);
  }

  /// Which rows of a micro-batch a term wants: all (undefined), or some.
  static Tensor wanted_rows(const TermShare& share, const Tensor& members) {
    if (!share.keep.defined()) return {};
    const Tensor rows = share.keep.index_select(0, members).nonzero().flatten();
    return rows.numel() == members.numel() ? Tensor() : rows;
  }
  static Tensor signal_of(const TermShare& share, const Tensor& members, const Tensor& rows) {
    if (!share.signal.defined()) return {};
    const Tensor own = rows.defined() ? members.index_select(0, rows) : members;
    return share.signal.index_select(0, on_device(own, share.signal.device()));
  }

  template <std::size_t I, class Batch>
  static constexpr bool may_absorb_next() {
    if constexpr (I + 1 < size) {
      using Narrow =
          meta::Union<typename TermAt<I>::Velocities, typename TermAt<I + 1>::Velocities>;
      using Both = decltype(std::declval<const Batch&>().template narrowed<Narrow>(Tensor()));
      return detail::Absorbs<TermAt<I>, TermAt<I + 1>, Both>;
    } else {
      return false;
    }
  }

  template <std::size_t I, class Selection, class Batch>
  void add_terms(Tensor& total, const Batch& batch, const Tensor& members, const Shares& shares,
                 Statistics& statistics) const {
    if constexpr (I < size) {
      if constexpr (Selection::template contains<I, TermAt<I>>) {
        if constexpr (may_absorb_next<I, Batch>()) {
          if (same_samples(shares[I], shares[I + 1])) {
            add_both<I>(total, batch, members, shares, statistics);
            return add_terms<I + 2, Selection>(total, batch, members, shares, statistics);
          }
        }
        add_one<I>(total, batch, members, shares[I], statistics);
      }
      add_terms<I + 1, Selection>(total, batch, members, shares, statistics);
    }
  }

  template <std::size_t I, class Batch>
  void add_one(Tensor& total, const Batch& batch, const Tensor& members, const TermShare& share,
               Statistics& statistics) const {
    using T = TermAt<I>;
    const Tensor rows = wanted_rows(share, members);
    if (rows.defined() && rows.numel() == 0) return;
    const Tensor loss = std::get<I>(terms).loss(
        batch.template narrowed<typename T::Velocities>(beside(rows, batch)),
        signal_of(share, members, rows), statistics);
    statistics.add(T::name, loss);
    add(total, loss.sum() * share.scale);
  }

  /// Two terms in one operation, for the same samples.
  template <std::size_t I, class Batch>
  void add_both(Tensor& total, const Batch& batch, const Tensor& members, const Shares& shares,
                Statistics& statistics) const {
    using Narrow = meta::Union<typename TermAt<I>::Velocities, typename TermAt<I + 1>::Velocities>;
    const TermShare& share = shares[I];
    const Tensor rows = wanted_rows(share, members);
    if (rows.defined() && rows.numel() == 0) return;
    const Tensor loss =
        std::get<I>(terms).loss_with(std::get<I + 1>(terms), weights[I + 1] / weights[I],
                                     batch.template narrowed<Narrow>(beside(rows, batch)),
                                     signal_of(share, members, rows), statistics);
    add(total, loss.sum() * share.scale);
  }

  template <class Batch>
  static Tensor beside(const Tensor& rows, const Batch& batch) {
    return rows.defined() ? on_device(rows, batch.device()) : rows;
  }
  static void add(Tensor& total, const Tensor& loss) {
    total = total.defined() ? total + loss : loss;
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
  } else if constexpr (Term<O>) {
    return Sum<O>{{std::move(objective)}, {1.0}};
  } else {
    static_assert(explain_term<O>());
    return Sum<>{};
  }
}

/// @p weight times an objective.
/// @throws Error unless the weight is finite and above 0
template <detail::MeantAsTerm O>
auto operator*(double weight, O objective) {
  expects(std::isfinite(weight) && weight > 0, "weight", "a finite number above 0", weight);
  auto sum = as_sum(std::move(objective));
  for (double& own : sum.weights) own *= weight;
  return sum;
}

/// The sum of two objectives.
template <detail::MeantAsTerm A, detail::MeantAsTerm B>
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

/// Whether a policy answers for all roles that the objective @p S, a Sum, needs.
template <class S, class P>
consteval bool has_roles_of() {
  bool all = true;
  S::KeptRoles::for_each(
      [&](auto role) { all = all && P::Available::template contains<decltype(role)::value>; });
  return all;
}

/// Says in a sentence what @p P lacks for the objective @p S, a Sum.
template <class S, class P>
consteval bool explain_roles() {
  using Needed = typename S::KeptRoles;
  using Available = typename P::Available;
  constexpr bool has_old =
      !Needed::template contains<Role::old> || Available::template contains<Role::old>;
  constexpr bool has_reference =
      !Needed::template contains<Role::reference> || Available::template contains<Role::reference>;
  static_assert(has_old,
                "contraflow: this objective needs the velocity of the role `old`, and this Policy "
                "has no such role: use SnapshotPolicy, or an objective without `old` such as Grpo");
  static_assert(has_reference,
                "contraflow: this objective needs the velocity of the role `reference`, and this "
                "Policy has no such role: use SnapshotPolicy, or leave out the KL term");
  static_assert(!has_old || !has_reference || has_roles_of<S, P>(),
                "contraflow: this objective needs the velocity of a role that this Policy does not "
                "answer for: give the policy that role by contraflow::with_role<role>(policy, "
                "model)");
  return true;
}

}  // namespace contraflow

// A term of a user's, in whatever namespace, is weighted and added like those of the library:
// argument-dependent lookup does not lead from it to contraflow.
using contraflow::operator*;  // NOLINT(google-global-names-in-headers)
using contraflow::operator+;  // NOLINT(google-global-names-in-headers)
