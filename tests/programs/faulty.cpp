// A layer between a program and the system that fails, for tests: loaded by LD_PRELOAD.
//
// The calls that change something below the folder FAULTS_BELOW are counted. At the call FAULTS_AT,
// counted from 1, happens FAULTS_KIND:
//   fail   this call fails, as for a bad disk
//   half   a write writes half, and the next call fails
//   full   from here on the disk is full: nothing is created, and no byte is written
//   kill   the process is gone before the call; of a write half is done
//   term, int   the process is sent that signal
// FAULTS_COUNT names a file that is told at the end how many calls there were, if any.

// Some systems replace the functions that are defined here by inline ones.
#undef _FORTIFY_SOURCE

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

namespace {

std::string_view setting(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

/// What a call is to do.
enum class Fate { live, fail, half };

std::atomic<long> count{0};

const std::string& below() {
  static const std::string folder(setting("FAULTS_BELOW"));
  return folder;
}

bool is_watched(std::string_view path) { return !below().empty() && path.starts_with(below()); }

bool is_watched(int file) {
  char path[PATH_MAX];
  const std::string link = "/proc/self/fd/" + std::to_string(file);
  const ssize_t length = ::readlink(link.c_str(), path, sizeof path);
  return length > 0 && is_watched(std::string_view(path, static_cast<std::size_t>(length)));
}

/// Counts a call, and says what becomes of it.
/// @param takes_room whether a full disk is in its way
/// @param is_write whether half of it can be done
Fate next(bool takes_room, bool is_write) {
  static const long at = std::atol(std::string(setting("FAULTS_AT")).c_str());
  static const std::string kind(setting("FAULTS_KIND"));
  const long call = ++count;
  if (at == 0) return Fate::live;
  if (kind == "full") return call >= at && takes_room ? Fate::fail : Fate::live;
  if (kind == "half") {
    if (call == at && is_write) return Fate::half;
    return call == at || call == at + 1 ? Fate::fail : Fate::live;
  }
  if (call != at) return Fate::live;
  if (kind == "fail") return Fate::fail;
  if (kind == "kill") {
    if (is_write) return Fate::half;
    ::kill(::getpid(), SIGKILL);
  }
  if (kind == "term") ::kill(::getpid(), SIGTERM);
  if (kind == "int") ::kill(::getpid(), SIGINT);
  return Fate::live;
}

int failed() {
  errno = setting("FAULTS_KIND") == "full" ? ENOSPC : EIO;
  return -1;
}

template <class F>
F* real(const char* name) {
  return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}

/// Writes by a function of a buffer's size.
template <class Write>
ssize_t written(int file, std::size_t size, Write write) {
  if (!is_watched(file)) return write(size);
  switch (next(true, true)) {
    case Fate::fail:
      return failed();
    case Fate::half: {
      const ssize_t done = write(std::max<std::size_t>(size / 2, 1));
      if (setting("FAULTS_KIND") == "kill") ::kill(::getpid(), SIGKILL);
      return done;
    }
    case Fate::live:
      break;
  }
  return write(size);
}

/// Calls a function that changes what has names.
template <class Call>
int changed(bool is_ours, bool takes_room, Call call) {
  if (is_ours && next(takes_room, false) != Fate::live) return failed();
  return call();
}

struct AtTheEnd {
  ~AtTheEnd() {
    const std::string path(setting("FAULTS_COUNT"));
    if (path.empty() || count == 0) return;
    if (std::FILE* file = std::fopen(path.c_str(), "w")) {
      std::fprintf(file, "%ld\n", count.load());
      std::fclose(file);
    }
  }
} const at_the_end;

}  // namespace

extern "C" {

ssize_t write(int file, const void* data, std::size_t size) {
  static auto* const call = real<ssize_t(int, const void*, std::size_t)>("write");
  return written(file, size, [&](std::size_t some) { return call(file, data, some); });
}

ssize_t pwrite(int file, const void* data, std::size_t size, off_t place) {
  static auto* const call = real<ssize_t(int, const void*, std::size_t, off_t)>("pwrite");
  return written(file, size, [&](std::size_t some) { return call(file, data, some, place); });
}
ssize_t pwrite64(int file, const void* data, std::size_t size, off_t place) {
  return pwrite(file, data, size, place);
}

// Two names of one function, of which a program uses the one that it was compiled for.
#define CONTRAFLOW_OPEN(name)                                                          \
  int name(const char* path, int flags, ...) {                                         \
    static auto* const call = real<int(const char*, int, ...)>(#name);                 \
    std::va_list arguments;                                                            \
    va_start(arguments, flags);                                                        \
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;        \
    va_end(arguments);                                                                 \
    const bool is_ours = (flags & O_CREAT) != 0 && is_watched(std::string_view(path)); \
    return changed(is_ours, true, [&] { return call(path, flags, mode); });            \
  }
CONTRAFLOW_OPEN(open)
CONTRAFLOW_OPEN(open64)

int rename(const char* from, const char* to) {
  static auto* const call = real<int(const char*, const char*)>("rename");
  return changed(is_watched(std::string_view(to)), false, [&] { return call(from, to); });
}

int mkdir(const char* path, mode_t mode) {
  static auto* const call = real<int(const char*, mode_t)>("mkdir");
  return changed(is_watched(std::string_view(path)), true, [&] { return call(path, mode); });
}

int fsync(int file) {
  static auto* const call = real<int(int)>("fsync");
  return changed(is_watched(file), false, [&] { return call(file); });
}

int ftruncate(int file, off_t size) {
  static auto* const call = real<int(int, off_t)>("ftruncate");
  return changed(is_watched(file), false, [&] { return call(file, size); });
}

int unlink(const char* path) {
  static auto* const call = real<int(const char*)>("unlink");
  return changed(is_watched(std::string_view(path)), false, [&] { return call(path); });
}
}
