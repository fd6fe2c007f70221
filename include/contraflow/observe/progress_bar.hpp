#pragma once

/// @file
/// An observer that draws a line on a terminal.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/ioctl.h>
#include <unistd.h>

#include <contraflow/observe/metric_names.hpp>
#include <contraflow/observe/report.hpp>

namespace contraflow {

namespace detail {

/// A line of a terminal that is written again and again in place, and ends with a newline when the
/// object goes: what an exception prints does not land in the middle of it.
class TerminalLine {
 public:
  explicit TerminalLine(std::FILE* stream) : stream_(stream) {}
  TerminalLine(TerminalLine&& other) noexcept
      : stream_(other.stream_), length_(std::exchange(other.length_, 0)) {}
  TerminalLine& operator=(TerminalLine&&) = delete;
  ~TerminalLine() { end(); }

  /// Columns of the terminal behind the stream; 0 when it is not a terminal.
  int width() const {
    if (!isatty(fileno(stream_))) return 0;
    winsize size = {};
    const bool known = ioctl(fileno(stream_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    return known ? size.ws_col : 80;
  }

  /// Shows @p text instead of what the line shows.
  void redraw(const std::string& text) {
    // Spaces over the rest of a longer text: unlike an escape sequence they work on any terminal.
    const std::size_t rest = length_ > text.size() ? length_ - text.size() : 0;
    const std::string drawn = '\r' + text + std::string(rest, ' ');
    std::fwrite(drawn.data(), 1, drawn.size(), stream_);
    std::fflush(stream_);
    length_ = drawn.size() - 1;
  }

  /// Gives @p text a line of its own, in the place of what the line shows.
  void print(const std::string& text) {
    if (length_ > 0) {
      redraw(text);
      return end();
    }
    const std::string line = text + '\n';
    std::fwrite(line.data(), 1, line.size(), stream_);
    std::fflush(stream_);
  }

  void end() {
    if (length_ == 0) return;
    std::fputc('\n', stream_);
    std::fflush(stream_);
    length_ = 0;
  }

 private:
  std::FILE* stream_;
  std::size_t length_ = 0;
};

/// A length of time for a person: "4.2 s", "37 s", "3 m 05 s", "2 h 04 m".
inline std::string duration_text(double seconds) {
  std::array<char, 32> text;
  const auto whole = static_cast<long long>(std::llround(seconds));
  if (seconds < 9.95) {
    std::snprintf(text.data(), text.size(), "%.1f s", seconds);
  } else if (whole < 60) {
    std::snprintf(text.data(), text.size(), "%lld s", whole);
  } else if (whole < 3600) {
    std::snprintf(text.data(), text.size(), "%lld m %02lld s", whole / 60, whole % 60);
  } else {
    std::snprintf(text.data(), text.size(), "%lld h %02lld m", whole / 3600, whole / 60 % 60);
  }
  return text.data();
}

}  // namespace detail

/// Options of ProgressBar.
struct ProgressBarOptions {
  std::FILE* stream = stderr;  ///< where to draw; must outlive the observer
  int width = 0;               ///< columns; 0 asks the terminal, else drawn on any kind of stream
  std::string reward = "reward/mean";            ///< metric shown as "reward", when there is one
  std::string evaluation = "evaluation/reward";  ///< metric shown as "eval", when there is one
};

/// Observer that keeps one line of the terminal up to date: for a person who waits.
///
/// The line shows the epoch of how many, a bar, the reward, the latest evaluation, the seconds
/// trained and an estimate of those left, from the pace of this run. It is drawn at most 20 times a
/// second of training, with what fits into the terminal's width, and ends with a newline when the
/// run ends, followed by the reason where an observer stopped it. Warnings get lines of their own.
///
/// Where the stream is not a terminal only warnings are written, a line each: logs hold what went
/// wrong and stay free of the rest.
///
/// @throws Error from the first report, with the names there are, when an option names a metric,
/// other than the default, that no report will have. A display that cannot be written does not end
/// a run.
///
/// Draws no random numbers.
class ProgressBar {
 public:
  /// @param options settings
  explicit ProgressBar(ProgressBarOptions options = {})
      : options_(std::move(options)), line_(options_.stream) {}

  /// Takes note of how many epochs there are.
  void start(const RunInfo& info) {
    info_ = info;
    evaluation_.reset();
    drawn_at_.reset();
    checked_ = false;
    // The seconds a resumed run has behind it are known with its first report only.
    pace_from_ = info.first_epoch == 1 ? std::optional<Point>(Point{}) : std::nullopt;
  }

  /// Draws the line anew.
  void operator()(const EpochReport& report) {
    if (!std::exchange(checked_, true)) check_names(report);
    if (const auto value = report.find(options_.evaluation)) evaluation_ = value;
    if (!pace_from_) pace_from_ = Point{report.epoch, report.seconds};
    if (drawn_at_ && std::abs(report.seconds - *drawn_at_) < 0.05) return;
    drawn_at_ = report.seconds;
    draw(report);
  }

  /// Gives a warning a line of its own.
  void warn(const Warning& warning) { line_.print("warning: " + warning.message); }

  /// Ends the line.
  void finish(const RunReport& run) {
    if (run.last.epoch > 0) draw(run.last);
    line_.end();
    if (run.stopped && width() > 0) line_.print("stopped: " + run.reason);
  }

 private:
  struct Point {
    std::int64_t epoch = 0;
    double seconds = 0;
  };

  /// A name that is the user's own has to mean something; those by default are not always there.
  void check_names(const EpochReport& report) const {
    const ProgressBarOptions usual;
    if (options_.reward != usual.reward) {
      detail::expects_known(report, options_.reward, "ProgressBar.reward");
    }
    if (options_.evaluation != usual.evaluation) {
      detail::expects_known(report, options_.evaluation, "ProgressBar.evaluation");
    }
  }

  int width() const { return options_.width > 0 ? options_.width : line_.width(); }

  void draw(const EpochReport& report) {
    const int columns = width();
    if (columns == 0) return;
    // A character in the last column makes some terminals begin a new line.
    const auto limit = static_cast<std::size_t>(columns - 1);
    line_.redraw(text(report, limit));
  }

  /// As many whole parts as fit: half a number would be another number.
  std::string text(const EpochReport& report, std::size_t limit) const {
    const std::string epoch = epoch_text(report.epoch);
    std::string values;
    for (const std::string& value : values_of(report)) {
      if (epoch.size() + values.size() + value.size() > limit) break;
      values += value;
    }
    const std::string line = epoch + bar(report, limit, epoch.size() + values.size()) + values;
    return line.substr(0, limit);
  }

  /// "epoch  7/20", as wide in each epoch, or "epoch 7" where the end is not known.
  std::string epoch_text(std::int64_t epoch) const {
    std::string number = std::to_string(epoch);
    if (info_.last_epoch <= 0) return "epoch " + number;
    const std::string last = std::to_string(info_.last_epoch);
    if (number.size() < last.size()) number.insert(0, last.size() - number.size(), ' ');
    return "epoch " + number + '/' + last;
  }

  std::vector<std::string> values_of(const EpochReport& report) const {
    std::vector<std::string> values;
    if (const auto reward = report.find(options_.reward)) {
      values.push_back(labelled("reward", *reward));
    }
    if (evaluation_) values.push_back(labelled("eval", *evaluation_));
    values.push_back("  " + detail::duration_text(report.seconds));
    if (const auto left = seconds_left(report)) {
      values.push_back("  ETA " + detail::duration_text(*left));
    }
    return values;
  }

  static std::string labelled(std::string_view label, double value) {
    std::array<char, 32> number;
    std::snprintf(number.data(), number.size(), "%.4g", value);
    return "  " + std::string(label) + ' ' + number.data();
  }

  /// " [==>  ]" in what @p taken leaves of @p limit columns, or nothing where that is too little.
  std::string bar(const EpochReport& report, std::size_t limit, std::size_t taken) const {
    constexpr std::size_t frame = 3, shortest = 5, longest = 30;
    if (info_.last_epoch <= 0 || limit < taken + frame + shortest) return "";
    const std::size_t length = std::min(limit - taken - frame, longest);
    const double done = static_cast<double>(report.epoch) / static_cast<double>(info_.last_epoch);
    const auto filled =
        static_cast<std::size_t>(static_cast<double>(length) * std::clamp(done, 0.0, 1.0));
    std::string cells = std::string(filled, '=') + std::string(length - filled, ' ');
    if (filled < length) cells[filled] = '>';
    return " [" + cells + ']';
  }

  std::optional<double> seconds_left(const EpochReport& report) const {
    if (!pace_from_ || report.epoch <= pace_from_->epoch || report.epoch >= info_.last_epoch) {
      return std::nullopt;
    }
    const auto done = static_cast<double>(report.epoch - pace_from_->epoch);
    const auto left = static_cast<double>(info_.last_epoch - report.epoch);
    return (report.seconds - pace_from_->seconds) / done * left;
  }

  ProgressBarOptions options_;
  detail::TerminalLine line_;
  RunInfo info_;
  std::optional<Point> pace_from_;
  std::optional<double> evaluation_;
  std::optional<double> drawn_at_;
  bool checked_ = false;
};

}  // namespace contraflow
