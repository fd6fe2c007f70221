#pragma once

/// @file
/// The release.

/// Major version; the build and the package read the three numbers from here.
#define CONTRAFLOW_VERSION_MAJOR 0
/// Minor version.
#define CONTRAFLOW_VERSION_MINOR 1
/// Patch.
#define CONTRAFLOW_VERSION_PATCH 0

namespace contraflow {

/// A release of the library, as in semantic versioning.
struct Version {
  int major;  ///< changes when callers have to change
  int minor;  ///< changes when something is added
  int patch;  ///< changes when something is repaired

  friend constexpr bool operator==(const Version&, const Version&) = default;
};

/// The release that was compiled in. Draws no random numbers.
inline constexpr Version version{CONTRAFLOW_VERSION_MAJOR, CONTRAFLOW_VERSION_MINOR,
                                 CONTRAFLOW_VERSION_PATCH};

}  // namespace contraflow
