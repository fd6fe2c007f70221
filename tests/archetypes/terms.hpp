#pragma once

#include <string_view>

#include <contraflow/objective/concept.hpp>

namespace archetypes {

/// A Term: pulls the velocity to zero.
struct PlainTerm {
  using Velocities = contraflow::Roles<contraflow::Role::current>;
  using Points = contraflow::ForwardProcess;
  static constexpr std::string_view name = "plain";

  template <class Batch>
  contraflow::Tensor loss(const Batch& batch, const contraflow::Tensor&,
                          contraflow::Statistics&) const {
    return contraflow::mean_per_sample(
        contraflow::velocity<contraflow::Role::current>(batch).square());
  }
};

/// A Term on transitions: pulls the mean to the state that was drawn.
struct PlainTransitionTerm {
  using Velocities = contraflow::Roles<contraflow::Role::current>;
  using Points = contraflow::RecordedTransitions;
  static constexpr std::string_view name = "plain_transition";

  template <class Batch>
  contraflow::Tensor loss(const Batch& batch, const contraflow::Tensor&,
                          contraflow::Statistics&) const {
    const auto& v = contraflow::velocity<contraflow::Role::current>(batch);
    return contraflow::mean_per_sample((batch.transition.mean(batch.x, v) - batch.next).square());
  }
};

static_assert(contraflow::Term<PlainTerm> && contraflow::Term<PlainTransitionTerm>);
static_assert(!contraflow::HasSignal<PlainTerm> && !contraflow::HasKeep<PlainTerm>);

}  // namespace archetypes
