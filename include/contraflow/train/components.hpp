#pragma once

/// @file
/// The components of trainers: told apart by what they are, in any order.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#include <contraflow/advantage/advantages.hpp>
#include <contraflow/train/ahead.hpp>
#include <contraflow/train/evaluator.hpp>
#include <contraflow/train/learner.hpp>

namespace contraflow {

/// The seed of everything that a trainer draws: a component.
struct Seed {
  std::uint64_t value = 0;  ///< any
};

namespace detail {

/// Kinds of components: `Kind::template is<T>`.
template <class Exactly>
struct KindOf {
  template <class T>
  static constexpr bool is = std::same_as<T, Exactly>;
};
using CollectionKind = KindOf<Collection>;
using ScoringKind = KindOf<Scoring>;
using LearningKind = KindOf<Learning>;
using OptimizationKind = KindOf<Optimization>;
using ForwardKind = KindOf<ForwardProcess>;
using TransitionsKind = KindOf<RecordedTransitions>;
using SeedKind = KindOf<Seed>;
using AheadKind = KindOf<Ahead>;
using CorrectionKind = KindOf<RolloutCorrection>;
struct EvaluationKind {
  template <class T>
  static constexpr bool is = std::same_as<T, EvaluationOptions> || is_evaluator<T>;
};
struct PromptKind {
  template <class T>
  static constexpr bool is = PromptSource<T>;
};
struct CommunicatorKind {
  template <class T>
  static constexpr bool is = Communicator<T>;
};
struct AdvantageKind {
  template <class T>
  static constexpr bool is = Advantage<T>;
};

/// Whether a type is of one of some kinds.
template <class T, class... Kinds>
inline constexpr bool is_any = (Kinds::template is<T> || ...);
/// How many of some types are of a kind.
template <class Kind, class... Ts>
inline constexpr int count_of = (0 + ... + (Kind::template is<Ts> ? 1 : 0));

/// The first of some types that is of a kind, or a default.
template <class Kind, class Default, class... Ts>
struct PickType {
  using type = Default;
};
template <class Kind, class Default, class First, class... Rest>
struct PickType<Kind, Default, First, Rest...> {
  using type = typename std::conditional_t<Kind::template is<First>, std::type_identity<First>,
                                           PickType<Kind, Default, Rest...>>::type;
};
template <class Kind, class Default, class... Ts>
using Pick = typename PickType<Kind, Default, Ts...>::type;

/// The first of some values that is of a kind, or a default.
template <class Kind, class Default>
Default pick() {
  return Default{};
}
template <class Kind, class Default, class First, class... Rest>
auto pick(const First& first, const Rest&... rest) {
  if constexpr (Kind::template is<First>) {
    return first;
  } else {
    return pick<Kind, Default>(rest...);
  }
}

/// Every kind that some trainer takes.
template <class T>
inline constexpr bool is_component =
    is_any<T, CollectionKind, ScoringKind, LearningKind, OptimizationKind, ForwardKind,
           TransitionsKind, CorrectionKind, SeedKind, AheadKind, EvaluationKind, PromptKind,
           AdvantageKind, CommunicatorKind>;

/// What is asked of the components of a trainer.
/// @tparam O the objective, a Sum
template <class O, class... Ts>
struct ComponentCheck {
  static constexpr bool are_known = (is_component<Ts> && ...);
  static constexpr bool one_prompts = count_of<PromptKind, Ts...> <= 1;
  static constexpr bool one_advantage = count_of<AdvantageKind, Ts...> <= 1;
  static constexpr bool one_communicator = count_of<CommunicatorKind, Ts...> <= 1;
  static constexpr bool once =
      count_of<CollectionKind, Ts...> <= 1 && count_of<ScoringKind, Ts...> <= 1 &&
      count_of<LearningKind, Ts...> <= 1 && count_of<OptimizationKind, Ts...> <= 1 &&
      count_of<ForwardKind, Ts...> <= 1 && count_of<TransitionsKind, Ts...> <= 1 &&
      count_of<EvaluationKind, Ts...> <= 1 && count_of<SeedKind, Ts...> <= 1 &&
      count_of<AheadKind, Ts...> <= 1 && count_of<CorrectionKind, Ts...> <= 1;
  static constexpr bool forward_is_used =
      count_of<ForwardKind, Ts...> == 0 || O::uses_forward || O::has_own_batches;
  static constexpr bool transitions_are_used =
      count_of<TransitionsKind, Ts...> == 0 || O::uses_transitions;
  static constexpr bool correction_is_used =
      count_of<CorrectionKind, Ts...> == 0 || O::uses_transitions;
  static constexpr bool fits = are_known && one_prompts && one_advantage && one_communicator &&
                               once && forward_is_used && transitions_are_used &&
                               correction_is_used;
};

/// Says what a type lacks that somebody meant as ranks or as prompts.
template <class T>
consteval bool explain_what_was_meant() {
  if constexpr (!is_component<T> && MeantAsCommunicator<T>) {
    return explain_communicator<T>();
  } else if constexpr (!is_component<T> && (HasPromptCount<T> || HasPromptCondition<T>)) {
    return explain_prompt_source<T>();
  }
  return true;
}

/// Says in a sentence what is wrong with the components of a trainer.
/// @tparam O the objective, a Sum
template <class O, class... Ts>
consteval bool explain_components() {
  using Check = ComponentCheck<O, Ts...>;
  (explain_what_was_meant<Ts>(), ...);
  static_assert(
      Check::are_known,
      "contraflow: a component of a trainer must be one of its settings (Collection, "
      "Scoring, Learning, Optimization, ForwardProcess, RecordedTransitions, RolloutCorrection, "
      "EvaluationOptions or an Evaluator, Seed, Ahead), a PromptSource, an Advantage or a "
      "Communicator");
  static_assert(Check::one_prompts,
                "contraflow: a trainer takes one PromptSource: join the prompts of both");
  static_assert(Check::one_advantage, "contraflow: a trainer takes one Advantage");
  static_assert(Check::one_communicator, "contraflow: a trainer takes one Communicator");
  static_assert(Check::once, "contraflow: a trainer takes each kind of settings once");
  static_assert(Check::forward_is_used,
                "contraflow: settings of the ForwardProcess mean nothing to an objective that "
                "looks at recorded transitions alone: leave them out, or add a term on the "
                "forward process");
  static_assert(Check::transitions_are_used,
                "contraflow: settings of RecordedTransitions mean nothing to an objective that "
                "looks at the forward process alone: leave them out, or use an objective on "
                "transitions such as Grpo");
  static_assert(Check::correction_is_used,
                "contraflow: a RolloutCorrection means nothing to an objective that looks at no "
                "transitions, whose losses have no ratios: leave it out");
  return true;
}

/// What is left of a trainer whose composition is refused: it takes anything, so that the sentence
/// of the refusal is the only error.
struct RefusedTrainer {
  template <class... Anything>
  explicit RefusedTrainer(const Anything&...) {}
  template <class... Anything>
  RunReport run(const Anything&...) {
    return {};
  }
  EpochReport run_epoch() { return {}; }
  template <class... Anything>
  Evaluation evaluate(const Anything&...) {
    return {};
  }
};

}  // namespace detail
}  // namespace contraflow
