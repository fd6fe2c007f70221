// An objective knows its needs: what it does not name is neither computed nor stored.
#include <concepts>
#include <iostream>

#include <contraflow/contraflow.hpp>

namespace cf = contraflow;

int main() {
  //! [algebra]
  auto objective = cf::Nft{} + 1e-4 * cf::VelocityKl{};
  using Needs = decltype(objective)::AllVelocities;
  static_assert(Needs::contains<cf::Role::current> && Needs::contains<cf::Role::old> &&
                Needs::contains<cf::Role::reference>);
  static_assert(std::same_as<cf::RecordOf<decltype(objective)>, cf::NothingRecorded>);
  static_assert(!cf::Sum<cf::Grpo>::AllVelocities::contains<cf::Role::reference>);
  //! [algebra]
  std::cout << "NFT with a KL needs " << Needs::size << " roles, FlowGRPO without one "
            << cf::Sum<cf::Grpo>::AllVelocities::size << '\n';
  return objective.weights[1] == 1e-4 ? 0 : 1;
}
