#pragma once

/// @file
/// Whether the parts of a Trainer make sense together.

#include <type_traits>
#include <utility>

#include <contraflow/train/components.hpp>

namespace contraflow {

namespace detail {

/// The types of a Trainer's parts.
template <class P, class S, class R, class O, class... Components>
struct Composition {
  using Prompts = Pick<PromptKind, NoPrompts, Components...>;
  using A = Pick<AdvantageKind, GroupAdvantage, Components...>;
  using E = Pick<EvaluationKind, EvaluationOptions, Components...>;
  using Comm = Pick<CommunicatorKind, Alone, Components...>;
  using Record = RecordOf<O>;
  using C = ConditionOf<Prompts>;
  using Reference =
      decltype(reference_of(std::declval<const Prompts&>(), std::declval<const Tensor&>()));
  static constexpr bool collects = Collector<S, P, Prompts, Record>;
  static constexpr bool looks_ahead = count_of<AheadKind, Components...> > 0;
  static constexpr bool corrects = count_of<CorrectionKind, Components...> > 0;
  static constexpr bool is_meant_to_collect = HasAnyCollect<S, CollectorContext<P, Prompts>>;

  /// Where samples come from: @p S itself, or what follows it.
  using Collects = std::conditional_t<collects, S, SolverCollector<S, Record>>;
  /// What evaluates.
  using Evaluates = std::conditional_t<is_evaluator<E>, E, Evaluator<>>;

  /// Says in a sentence what is wrong with the composition.
  static consteval bool explain() {
    static_assert(explain_trained<P, C>());
    if constexpr (Policy<P, C>) static_assert(explain_roles<O, P>());
    static_assert(
        collects || !is_meant_to_collect,
        "contraflow: a Collector must return a Rollout of what the objective records, and "
        "its `collect(context)` must be const: Rollout<NothingRecorded>, or "
        "Rollout<RecordedSteps<...>> for an objective on transitions");
    if constexpr (!collects && !is_meant_to_collect) {
      static_assert(explain_solver<S>());
      if constexpr (O::uses_transitions) static_assert(explain_stochastic_solver<S>());
      static_assert(!O::uses_paths || !Sampler<S>,
                    "contraflow: this objective is given states of the path from noise to data, "
                    "and a Sampler has none: use a Solver such as Euler");
    }
    if constexpr (O::uses_paths) static_assert(explain_gradients_of_rewards<R, Reference>());
    static_assert(!collects || count_of<CollectionKind, Components...> == 0,
                  "contraflow: the settings of a Collection mean nothing to a Collector of your "
                  "own: give them to the collector; the shape of a sample is that of its samples");
    static_assert(!looks_ahead || HasRoleTensors<P>,
                  "contraflow: Ahead keeps the weights that collect: give the policy "
                  "`std::map<std::string, Tensor> tensors_of(Role role)`, the weights that are a "
                  "role's own");
    static_assert(explain_components<O, Components...>());
    static_assert(explain_ranks<P, Comm>());
    return true;
  }
  /// Whether explain() is content.
  static consteval bool fits() {
    if constexpr (!Policy<P, C>) {
      return false;
    } else {
      constexpr bool solves = Solver<S> || Sampler<S>;
      constexpr bool records_transitions = !O::uses_transitions || StochasticSolver<S>;
      constexpr bool records_paths = !O::uses_paths || !Sampler<S>;
      constexpr bool has_gradients = !O::uses_paths || HasGradientsOfRewards<R, Reference>;
      constexpr bool has_collector_weights = !looks_ahead || HasRoleTensors<P>;
      constexpr bool has_samples = collects ? count_of<CollectionKind, Components...> == 0
                                            : solves && records_transitions && records_paths;
      constexpr bool has_components = ComponentCheck<O, Components...>::fits;
      return has_roles_of<O, P>() && has_its_ranks<P, Comm>() && has_samples && has_gradients &&
             has_collector_weights && has_components;
    }
  }
};

template <bool Collects>
struct CollectorMaker;
template <>
struct CollectorMaker<true> {
  template <class Collector, class S, class Options>
  static Collector of(S collector, const Options&, const RecordedTransitions&, std::int64_t) {
    return collector;
  }
};
template <>
struct CollectorMaker<false> {
  template <class Collector, class S, class Options>
  static Collector of(S solver, const Options& options, const RecordedTransitions& transitions,
                      std::int64_t least_group) {
    return Collector(std::move(solver), options, transitions, least_group);
  }
};

}  // namespace detail

}  // namespace contraflow
