#pragma once

/// @file
/// Whose velocity is meant.

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include <contraflow/core/meta.hpp>

namespace contraflow {

/// Which of a policy's velocities is meant: a name, which can be a template argument.
///
/// A program adds roles of its own, such as a second teacher: `inline constexpr cf::Role
/// painter{"painter"};`, and a policy that answers for them by with_role().
struct Role {
  static constexpr std::size_t capacity = 24;  ///< of a name, with its final zero

  char text[capacity]{};  ///< with its final zero; public, as a template argument's members are

  /// @param name a literal of fewer characters than `capacity`
  template <std::size_t N>
  consteval explicit Role(const char (&name)[N]) {  // NOLINT: a literal is an array
    static_assert(N <= capacity, "contraflow: the name of a Role has at most 23 characters");
    std::copy_n(name, N, text);
  }

  /// The name.
  constexpr std::string_view name() const { return text; }
  /// The name and what follows, such as "old.weight".
  std::string name_with(std::string_view suffix) const {
    return std::string(name()).append(suffix);
  }
  /// Roles of one name are one role.
  friend constexpr bool operator==(const Role&, const Role&) = default;

  static const Role current;    ///< v_theta: is trained
  static const Role old;        ///< v_old: collects samples and follows `current` slowly
  static const Role reference;  ///< v_ref: the frozen start
  static const Role average;    ///< a running average of `current`: is evaluated and exported
  static const Role sampler;    ///< collects samples where `old` has another part, as in CRD
  static const Role teacher;    ///< v_teacher: a frozen model to learn from, see with_role()
};

inline constexpr Role Role::current{"current"};
inline constexpr Role Role::old{"old"};
inline constexpr Role Role::reference{"reference"};
inline constexpr Role Role::average{"average"};
inline constexpr Role Role::sampler{"sampler"};
inline constexpr Role Role::teacher{"teacher"};

/// A set of roles, as a type.
template <Role... R>
using Roles = meta::Set<R...>;

}  // namespace contraflow
