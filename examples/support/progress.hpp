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
  /// @param speaks whether anything is shown
  explicit Progress(int total, std::string pieces = "runs", bool speaks = true)
      : total_(total),
        pieces_(std::move(pieces)),
        speaks_(speaks),
        is_terminal_(speaks && isatty(fileno(stderr)) != 0) {}

  /// One more piece of work is done.
  void advance(const std::string& what) {
    ++done_;
    what_ = what;
    draw();
  }

  /// A line that stays.
  void say(const std::string& text) {
    if (!speaks_) return;
    clear();
    std::fprintf(stderr, "%s\n", text.c_str());
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
    std::fprintf(stderr, "%s %d of %d %s, %.0f s  %s", bar.c_str(), done_, total_, pieces_.c_str(),
                 watch_.seconds(), what_.c_str());
    std::fflush(stderr);
  }

  void clear() {
    if (is_terminal_) std::fputs("\r\033[2K", stderr);
  }

  int total_, done_ = 0;
  std::string pieces_;
  bool speaks_;
  bool is_terminal_;
  std::string what_;
  contraflow::Stopwatch watch_;
};

}  // namespace support
