#pragma once

/// @file
/// The concept Advantage.

#include <concepts>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// `a(reward, group)` gives a tensor.
template <class A>
concept HasAdvantages = requires(const A& a, const Tensor& reward, const Tensor& group) {
  { a(reward, group) } -> std::convertible_to<Tensor>;
};

/// Turns rewards into how much better a sample is than the others of its prompt.
///
/// Valid expression: `a(reward, group)` with reward float64 [N] and group int64 [N] gives float64
/// [N]. Laws: the advantages of a group average to zero; a group whose rewards are all equal gets
/// exactly zero; the order of samples does not matter.
template <class A>
concept Advantage = HasAdvantages<A>;

/// Says in a sentence why @p A is not an Advantage.
template <class A>
consteval bool explain_advantage() {
  static_assert(Advantage<A>,
                "contraflow: an Advantage must be callable as `advantage(reward, group)` with two "
                "tensors [N], be const, and return a torch::Tensor [N]");
  return true;
}

}  // namespace contraflow
