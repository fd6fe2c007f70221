#pragma once

/// @file
/// Whose velocity is meant.

#include <contraflow/core/meta.hpp>

namespace contraflow {

/// Which of a policy's velocities is meant.
enum class Role {
  current,    ///< v_theta: is trained
  old,        ///< v_old: collects samples and follows `current` slowly
  reference,  ///< v_ref: the frozen start
  average,    ///< a running average of `current`: is evaluated and exported
};

/// A set of roles, as a type.
template <Role... R>
using Roles = meta::Set<R...>;

/// Name of a role.
constexpr const char* role_name(Role role) {
  switch (role) {
    case Role::current:
      return "current";
    case Role::old:
      return "old";
    case Role::reference:
      return "reference";
    case Role::average:
      return "average";
  }
  return "unknown";
}

}  // namespace contraflow
