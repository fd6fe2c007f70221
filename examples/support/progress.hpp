#pragma once

#include <cstdio>
#include <string>
#include <utility>

#include <unistd.h>

#include <contraflow/core/stopwatch.hpp>

#include "format.hpp"

namespace support {

/// Shows how much of a known amount of work is done: a line drawn again and again on a terminal,
/// and only what is said on anything else.
class Progress {
 public:
  /// @param total pieces of work
  /// @param pieces what they are called, in the plural
  explicit Progress(int total, std::string pieces = "runs", std::FILE* stream = stderr)
      : total_(total),
        pieces_(std::move(pieces)),
        stream_(stream),
        is_terminal_(isatty(fileno(stream)) != 0) {}

  /// One more piece of work is done.
  void advance(const std::string& what) {
    ++done_;
    what_ = what;
    draw();
  }

  /// A line that stays.
  void say(const std::string& text) {
    clear();
    std::fprintf(stream_, "%s\n", text.c_str());
    draw();
  }

  void finish() {
    clear();
    total_ = 0;
  }

 private:
  void draw() {
    if (!is_terminal_ || total_ == 0) return;
    constexpr int width = 24;
    const int filled = width * done_ / total_;
    std::string bar;
    for (int i = 0; i < width; ++i) bar += i < filled ? "█" : "░";
    clear();
    std::fprintf(stream_, "%s %d of %d %s, %.0f s  %s", bar.c_str(), done_, total_, pieces_.c_str(),
                 watch_.seconds(), what_.c_str());
    std::fflush(stream_);
  }

  void clear() {
    if (is_terminal_) std::fputs("\r\033[2K", stream_);
  }

  int total_, done_ = 0;
  std::string pieces_;
  std::FILE* stream_;
  bool is_terminal_;
  std::string what_;
  contraflow::Stopwatch watch_;
};

}  // namespace support
