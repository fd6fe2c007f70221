#pragma once

/// @file
/// The KL term of objectives on the forward process.

#include <string_view>

#include <contraflow/objective/concept.hpp>

namespace contraflow {

/// `mean (v_theta - v_ref)^2`: keeps the policy near its start, on samples noised afresh.
///
/// Up to a factor the KL divergence between the paths of both velocities. Needs the reference.
struct VelocityKl {
  using Velocities = Roles<Role::current, Role::reference>;  ///< whose velocities it needs
  using Points = ForwardProcess;                             ///< where it needs them
  static constexpr std::string_view name = "velocity_kl";    ///< under which it is reported

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics&) const {
    return mean_per_sample(
        (wide(velocity<Role::current>(batch)) - wide(velocity<Role::reference>(batch))).square());
  }
};

}  // namespace contraflow
