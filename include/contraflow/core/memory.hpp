#pragma once

/// @file
/// The memory of the process: how much it was, and a setting for programs of small tensors.

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

#if __has_include(<sys/resource.h>)
#include <sys/resource.h>
#endif

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

/// Bytes of this process that were in the host's memory at most; 0 where the system does not say.
inline std::uint64_t peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) * 1024;
  }
#if __has_include(<sys/resource.h>)
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
#else
  return 0;
#endif
}

}  // namespace contraflow
