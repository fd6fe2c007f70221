#pragma once

/// @file
/// The KL term of objectives on the forward process.

#include <cstdint>
#include <string_view>

#include <contraflow/objective/concept.hpp>
#include <contraflow/objective/informative.hpp>

namespace contraflow {

namespace detail {

/// Tells of something by the quarter of [0, 1] that its time is in, where that is asked for.
template <class Batch>
void add_by_time(Statistics& statistics, const Batch& batch, std::string_view name,
                 const Tensor& values) {
  constexpr std::int64_t parts = 4;
  if (!batch.reports_times) return;
  const Tensor part = (batch.t * parts).floor().clamp(0, parts - 1).to(at::kLong);
  statistics.add_by_step(name, values, part, parts);
}

}  // namespace detail

/// `mean (v_theta - v_ref)^2`: keeps the policy near its start, on samples noised afresh.
///
/// Up to a factor the KL divergence between the paths of both velocities. Needs the reference.
struct VelocityKl {
  using Velocities = Roles<Role::current, Role::reference>;  ///< whose velocities it needs
  using Points = ForwardProcess;                             ///< where it needs them
  static constexpr std::string_view name = "velocity_kl";    ///< under which it is reported

  /// Leaves out what Nft::informative_only leaves out. Beside an Nft that does so, both need the
  /// same velocities and are one operation; else the velocities of all samples are computed.
  bool informative_only = false;

  /// The samples that are trained on, bool [N]; undefined for all.
  Tensor keep(const Scores& scores) const { return informative(scores, informative_only); }

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics& statistics) const {
    const Tensor kl = mean_per_sample(
        (wide(velocity<Role::current>(batch)) - wide(velocity<Role::reference>(batch))).square());
    detail::add_by_time(statistics, batch, name, kl);
    return kl;
  }
};

}  // namespace contraflow
