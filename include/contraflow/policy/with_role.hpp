#pragma once

/// @file
/// One more frozen role for any policy.

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/policy/concept.hpp>

namespace contraflow {

/// A policy and a frozen model that answers for one role more: a teacher, a second reference.
///
/// Made by with_role(). The model is not trained and not part of checkpoints.
template <Role R, class P, class M>
class WithRole {
 public:
  static_assert(
      !P::Available::template contains<R>,
      "contraflow: with_role adds a role that the policy does not have yet: name one of your "
      "own, such as `inline constexpr cf::Role teacher{\"teacher\"}`");
  /// The roles it answers for.
  using Available = meta::Union<typename P::Available, Roles<R>>;

  /// @param policy answers for all other roles
  /// @param model answers for the role @p R
  WithRole(P policy, M model) : policy_(std::move(policy)), model_(std::move(model)) {}

  /// The velocity of a role; that of @p R carries no gradient.
  template <class C>
  Tensor velocity(Role role, const Tensor& x_t, const Tensor& t, const C& condition) {
    if (role != R) return policy_.velocity(role, x_t, t, condition);
    const at::NoGradGuard no_gradient;
    return velocity_of(model_, x_t, t, condition);
  }

  /// The policy that answers for all other roles.
  P& policy() { return policy_; }

  /// Prepares the other roles of a set.
  template <Role... Kept>
  void keep(Roles<Kept...> roles) {
    policy_.keep(roles);
  }
  /// What is trained.
  std::vector<Tensor> parameters() { return policy_.parameters(); }
  /// As the policy's.
  void after_gradient_step(std::int64_t step) { policy_.after_gradient_step(step); }
  /// As the policy's, where it has an old role.
  bool old_follows_steps() requires HasStepwiseOld<P> { return policy_.old_follows_steps(); }
  /// As the policy's, where it has an old role.
  void after_step_of_collector(std::int64_t step) requires HasStepwiseOld<P> {
    policy_.after_step_of_collector(step);
  }
  /// As the policy's.
  void after_epoch(std::int64_t step) { policy_.after_epoch(step); }
  /// As the policy's, where it has one.
  auto old_deviation() requires requires(P& p) { p.old_deviation(); }
  { return policy_.old_deviation(); }
  /// As the policy's, where it can give them.
  std::map<std::string, Tensor> tensors_of(Role role) requires HasRoleTensors<P> {
    return policy_.tensors_of(role);
  }
  /// As the policy's, where it is divided between ranks.
  auto communicator() requires HasShards<P> { return policy_.communicator(); }
  /// As the policy's, where it is divided between ranks.
  std::vector<int> owners() requires HasShards<P> { return policy_.owners(); }
  /// As the policy's, where it is divided between ranks; @p R is whole.
  auto gathered(Role role) requires HasShards<P> {
    return policy_.gathered(role == R ? Role::current : role);
  }
  /// As the policy's, where it is divided between ranks.
  std::vector<StatePart> state_parts() requires HasShards<P> { return policy_.state_parts(); }
  /// As the policy's, where it knows one.
  std::vector<std::int64_t> sample_shape() requires requires(P& p) { p.sample_shape(); }
  { return policy_.sample_shape(); }
  /// As the policy's.
  std::map<std::string, Tensor> state() { return policy_.state(); }
  /// As the policy's.
  void load(const std::map<std::string, Tensor>& tensors) { policy_.load(tensors); }

 private:
  P policy_;
  M model_;
};

/// A policy that also answers for the role @p R, by a frozen model: `cf::with_role<teacher>(policy,
/// model)`.
/// @param policy a Policy
/// @param model a FlowModel under the policy's condition; not copied if it is a module holder
template <Role R, class P, class M>
auto with_role(P policy, M model) {
  return WithRole<R, P, M>(std::move(policy), std::move(model));
}

}  // namespace contraflow
