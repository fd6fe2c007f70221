#pragma once

/// @file
/// The concept Policy.

#include <concepts>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <contraflow/distributed/shards.hpp>
#include <contraflow/model/concept.hpp>
#include <contraflow/policy/role.hpp>

namespace contraflow {

/// `P::Available`: the roles a policy can answer for.
template <class P>
concept HasRoles = requires {
  P::Available::size;
  { P::Available::template contains<Role::current> } -> std::convertible_to<bool>;
};

/// `p.velocity(role, x_t, t, condition)`: the velocity of a role.
template <class P, class C>
concept HasRoleVelocity = requires(P& p, const Tensor& x, const Tensor& t, const C& c) {
  { p.velocity(Role::current, x, t, c) } -> std::convertible_to<Tensor>;
};

/// `p.parameters()`: what is trained.
template <class P>
concept HasParameters = requires(P& p) {
  { p.parameters() } -> std::convertible_to<std::vector<Tensor>>;
};

/// `p.keep(roles)`, `p.after_gradient_step(i)` and `p.after_epoch(i)`: how roles follow the current
/// one; i counts gradient steps since the start.
template <class P>
concept HasProgress = requires(P& p, std::int64_t step) {
  p.keep(Roles<Role::current>{});
  p.after_gradient_step(step);
  p.after_epoch(step);
};

/// `p.state()` and `p.load(state)`: every tensor that a checkpoint needs, by name.
template <class P>
concept HasPolicyState = requires(P& p, const std::map<std::string, Tensor>& state) {
  { p.state() } -> std::convertible_to<std::map<std::string, Tensor>>;
  p.load(state);
};

/// `p.tensors_of(role)`: the weights that are a role's own, by name, to be read and written. A
/// policy needs it where samples are collected ahead.
template <class P>
concept HasRoleTensors = requires(P& p) {
  { p.tensors_of(Role::current) } -> std::convertible_to<std::map<std::string, Tensor>>;
};

/// `p.old_follows_steps()` and `p.after_step_of_collector(i)`: an old role that may follow gradient
/// steps instead of epochs; it does so where a trainer collects with it.
template <class P>
concept HasStepwiseOld = requires(P& p, std::int64_t step) {
  { p.old_follows_steps() } -> std::same_as<bool>;
  p.after_step_of_collector(step);
};

/// What a policy says whose roles are divided between ranks, and whose optimiser is to be.
///
/// `p.communicator()`: of the ranks; `p.owners()`: the rank of each of `p.parameters()`, which has
/// the optimiser's state of it; `p.gathered(role)`: collective, makes the weights of a role whole
/// on all ranks while the result lives; `p.state_parts()`: what `p.state()` gives on all ranks
/// together, in one order. Of such a policy `state()` gives what this rank has, and `load(state)`
/// takes that out of more.
template <class P>
concept HasShards = requires(P& p) {
  requires Communicator<std::remove_cvref_t<decltype(p.communicator())>>;
  { p.owners() } -> std::convertible_to<std::vector<int>>;
  p.gathered(Role::average);
  { p.state_parts() } -> std::convertible_to<std::vector<StatePart>>;
};

/// The communicator of a policy that is divided between ranks.
template <HasShards P>
using RanksOf = std::remove_cvref_t<decltype(std::declval<P&>().communicator())>;

/// What gathered() gives where a role is whole anyway.
struct AlreadyWhole {};

/// Makes the weights of a role whole on all ranks while the result lives: collective, where the
/// policy is divided between ranks; for all others nothing is to be done.
template <class P>
auto gathered(P& policy, Role role) {
  if constexpr (HasShards<P>) {
    return policy.gathered(role);
  } else {
    return AlreadyWhole{};
  }
}

/// Whether a policy can be trained by the ranks of a trainer: one that is divided by its own alone.
template <class P, class Comm>
consteval bool has_its_ranks() {
  if constexpr (HasShards<P>) {
    return std::same_as<RanksOf<P>, Comm>;
  } else {
    return true;
  }
}

/// Says in a sentence why @p P cannot be trained by these ranks.
template <class P, class Comm>
consteval bool explain_ranks() {
  static_assert(has_its_ranks<P, Comm>(),
                "contraflow: a policy that is divided between ranks is trained by these ranks: "
                "give the trainer the Communicator that the policy was given");
  return true;
}

/// Answers for the velocities of several roles and owns how they differ.
///
/// Valid expressions: those of HasRoles, HasRoleVelocity, HasParameters, HasProgress and
/// HasPolicyState. Laws: training `current` leaves `old` bit-identical until `after_epoch` and
/// `reference` for ever; only `current` carries gradients; `load(state())` changes nothing.
template <class P, class C = Unconditional>
concept Policy =
    HasRoles<P> && HasRoleVelocity<P, C> && HasParameters<P> && HasProgress<P> && HasPolicyState<P>;

/// Says in a sentence why @p P is not a Policy under the condition @p C.
template <class P, class C = Unconditional>
consteval bool explain_policy() {
  static_assert(HasRoles<P>,
                "contraflow: a Policy must name its roles: `using Available = "
                "contraflow::Roles<Role::current, ...>`");
  static_assert(
      HasRoleVelocity<P, C>,
      "contraflow: a Policy must answer `velocity(role, x_t, t, condition)` with a tensor "
      "for the condition that the prompts give");
  static_assert(HasParameters<P>,
                "contraflow: a Policy must give `std::vector<Tensor> parameters()`, what is "
                "trained");
  static_assert(HasProgress<P>,
                "contraflow: a Policy must have `keep(roles)`, `after_gradient_step(i)` and "
                "`after_epoch(i)`");
  static_assert(HasPolicyState<P>,
                "contraflow: a Policy must have `state()` and `load(state)` for checkpoints");
  return true;
}

/// Says in a sentence why @p P cannot be trained under the condition @p C: for a model that was
/// meant to be a policy, how it becomes one.
template <class P, class C = Unconditional>
consteval bool explain_trained() {
  constexpr bool is_bare_model = !HasRoles<P> && HasModule<P>;
  static_assert(!is_bare_model,
                "contraflow: a trainer trains a Policy, and this is a model: wrap it, as in "
                "contraflow::SnapshotPolicy(model)");
  if constexpr (!is_bare_model) static_assert(explain_policy<P, C>());
  return true;
}

}  // namespace contraflow
