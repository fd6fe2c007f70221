// expect: this objective needs the velocity of the role `reference`, and this Policy has no such
// role
#include <contraflow/objective/algebra.hpp>
#include <contraflow/objective/velocity_kl.hpp>
#include <contraflow/policy/concept.hpp>

namespace cf = contraflow;

struct Policy {
#ifdef POSITIVE_CONTROL
  using Available = cf::Roles<cf::Role::current, cf::Role::reference>;
#else
  using Available = cf::Roles<cf::Role::current, cf::Role::old>;
#endif
};

static_assert(cf::explain_roles<cf::Sum<cf::VelocityKl>, Policy>());
