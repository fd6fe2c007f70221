#pragma once

#include <map>
#include <string>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/policy/concept.hpp>

#include "laws/compare.hpp"

/// Laws of Policy, for any model of it.
namespace laws {

using contraflow::Role;

/// A step of training: every parameter moves.
template <class P>
void move_parameters(P& policy, double by = 0.05) {
  const at::NoGradGuard no_gradient;
  for (const Tensor& parameter : policy.parameters()) {
    Tensor(parameter).add_(floats(parameter.sizes(), 17), by);
  }
}

/// @param make gives a fresh policy each time
template <class Make, class C = contraflow::Unconditional>
void policy(Make&& make, const Tensor& x, const C& condition = {}) {
  using P = decltype(make());
  static_assert(contraflow::Policy<P, C>);
  const Tensor t = at::linspace(0.1, 0.9, x.size(0), x.options());
  const auto velocity = [&](P& policy, Role role) {
    [[maybe_unused]] const auto whole = contraflow::gathered(policy, role);
    return policy.velocity(role, x, t, condition);
  };
  const auto each_role = [](auto&& body) { P::Available::for_each([&](auto r) { body(r()); }); };

  {  // At the start all roles are one.
    P policy = make();
    policy.keep(typename P::Available{});
    const Tensor start = velocity(policy, Role::current).detach().clone();
    each_role([&](Role role) { CHECK(same_bits(velocity(policy, role).detach(), start)); });
    CHECK_FALSE(policy.parameters().empty());
  }
  {  // Only `current` carries gradients.
    P policy = make();
    policy.keep(typename P::Available{});
    each_role([&](Role role) {
      INFO(role.name());
      CHECK(velocity(policy, role).requires_grad() == (role == Role::current));
    });
  }
  {  // Training leaves `old` alone until after_epoch, and `reference` for ever.
    P policy = make();
    policy.keep(typename P::Available{});
    const Tensor start = velocity(policy, Role::current).detach().clone();
    const auto is_at_start = [&](Role role) {
      return same_bits(velocity(policy, role).detach(), start);
    };
    for (std::int64_t step = 1; step <= 3; ++step) {
      move_parameters(policy);
      policy.after_gradient_step(step);
    }
    CHECK_FALSE(is_at_start(Role::current));
    if constexpr (P::Available::template contains<Role::old>) CHECK(is_at_start(Role::old));
    policy.after_epoch(3);
    if constexpr (P::Available::template contains<Role::old>) CHECK_FALSE(is_at_start(Role::old));
    if constexpr (P::Available::template contains<Role::reference>) {
      CHECK(is_at_start(Role::reference));
    }
  }
  {  // load(state()) changes nothing; another's state makes it the other.
    P policy = make(), other = make();
    policy.keep(typename P::Available{});
    other.keep(typename P::Available{});
    move_parameters(policy);
    policy.after_gradient_step(1);
    policy.after_epoch(1);
    std::map<std::string, Tensor> state;
    for (const auto& [name, tensor] : policy.state()) state.emplace(name, tensor.detach().clone());
    policy.load(policy.state());
    for (const auto& [name, tensor] : policy.state()) CHECK(same_bits(tensor, state.at(name)));
    other.load(state);
    each_role([&](Role role) {
      CHECK(same_bits(velocity(other, role).detach(), velocity(policy, role).detach()));
    });
  }
}

}  // namespace laws
