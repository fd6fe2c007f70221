#pragma once

/// @file
/// A setting of the process for programs of small tensors.

#include <cstdlib>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace contraflow {

/// Lets the C library keep freed memory for the next tensor instead of returning it to the system.
///
/// glibc maps every block above 128 KiB afresh by default, so that each tensor of moderate size
/// costs its page faults again: about a tenth of the time of an epoch of a small flow. For programs
/// to call once at their start; the library itself never changes a setting of the process. Without
/// glibc it does nothing.
inline void keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int one_gibibyte = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, one_gibibyte);
  mallopt(M_TRIM_THRESHOLD, one_gibibyte);
#endif
}

}  // namespace contraflow
