#pragma once

/// @file
/// An observer that writes event files of TensorBoard.

#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

#include <contraflow/core/error.hpp>
#include <contraflow/observe/output_file.hpp>
#include <contraflow/observe/report.hpp>
#include <contraflow/observe/tfevents.hpp>

namespace contraflow {

/// Observer that writes an event file for TensorBoard: curves and pictures in a browser.
///
/// Every metric is a scalar under its name, at the epoch as step, and every picture of a report an
/// image under its. So are, under "progress/", gradient_steps, forward_evaluations,
/// backward_evaluations and seconds, as scalars. Warnings are texts under
/// "warning/" and the quantity; the reason of a run that was stopped is a text under
/// "progress/stopped". The format holds scalars in single precision: JsonLines and Csv keep all
/// digits. Where a report names a metric twice, both values are written.
///
/// The file is called `events.out.tfevents.<seconds>.<host>.<process>`, with a number behind that
/// where the name is taken, and is made, with missing directories, when the run starts or something
/// is first written. A run that continues
/// (`RunInfo::first_epoch` above 1) makes TensorBoard drop what the directory's earlier files hold
/// from that epoch on. One that begins at epoch 1 takes the place of what the directory holds: the
/// earlier files stay, under names that TensorBoard passes over, with "earlier" for "tfevents".
///
/// What is to be shown of an epoch belongs into its report, for all observers alike: a metric or a
/// picture that an observer of yours adds. What belongs to no epoch can be put into the file by
/// keeping the observer in a variable:
/// @code
/// cf::TensorBoard board("runs/nft");
/// board.text("about", "NFT with guidance", 0);
/// trainer.run(200, board);
/// @endcode
///
/// @throws Error naming the file, from any member but the constructor, when it cannot be written
///
/// Draws no random numbers.
class TensorBoard {
 public:
  /// @param directory directory of the run: TensorBoard is to be pointed at it or at its parent
  explicit TensorBoard(std::filesystem::path directory) : directory_(std::move(directory)) {}

  /// Writes one number.
  /// @param tag name; what stands before a "/" groups it
  /// @param value the number; NaN and infinities are shown as such
  /// @param step epoch, or whatever the horizontal axis is to count
  void scalar(std::string_view tag, double value, std::int64_t step) {
    write(tfevents::Message().message(1, tfevents::scalar_value(tag, value)), step);
  }

  /// Writes a picture.
  /// @param tag name
  /// @param png the bytes of a PNG file
  /// @param width, height its size in pixels, above 0
  /// @param step epoch
  /// @throws Error when the bytes do not begin as a PNG file does, or a size is not positive
  void image(std::string_view tag, std::span<const std::uint8_t> png, std::int64_t width,
             std::int64_t height, std::int64_t step) {
    image(tag, std::string_view(reinterpret_cast<const char*>(png.data()), png.size()), width,
          height, step);
  }
  /// The same, of bytes in a string.
  void image(std::string_view tag, std::string_view png, std::int64_t width, std::int64_t height,
             std::int64_t step) {
    detail::expects_picture(tag, png, width, height);
    write(tfevents::Message().message(1, tfevents::image_value(tag, png, width, height)), step);
  }

  /// Writes a text, which TensorBoard shows as Markdown.
  /// @param tag name
  /// @param text UTF-8
  /// @param step epoch
  void text(std::string_view tag, std::string_view text, std::int64_t step) {
    write(tfevents::Message().message(1, tfevents::text_value(tag, text)), step);
  }

  /// Makes the file.
  void start(const RunInfo& info) {
    if (info.first_epoch > 1) {
      open();
      drop_from(info.first_epoch);
    } else if (!file_.is_open() || !is_first_) {
      take_the_place_of_earlier();
    }
    is_first_ = false;
    begin_.reset();
  }

  /// Writes every number and every picture of a report.
  void operator()(const EpochReport& report) {
    step_ = report.epoch;
    tfevents::Message summary;
    const auto add = [&](std::string_view tag, double value) {
      summary.message(1, tfevents::scalar_value(tag, value));
    };
    for (const Metric& metric : report.metrics) add(metric.name, metric.value);
    add("progress/gradient_steps", static_cast<double>(report.gradient_steps));
    add("progress/forward_evaluations", static_cast<double>(report.forward_evaluations));
    add("progress/backward_evaluations", static_cast<double>(report.backward_evaluations));
    add("progress/seconds", report.seconds);
    write(summary, report.epoch);
    for (const Picture& picture : report.pictures) {
      image(picture.name, std::string_view(picture.png), picture.width, picture.height,
            report.epoch);
    }
  }

  /// Writes a warning as a text.
  void warn(const Warning& warning) { text("warning/" + warning.quantity, warning.message, step_); }

  /// Writes the reason of a run that was stopped.
  void finish(const RunReport& run) {
    if (run.stopped) text("progress/stopped", run.reason, run.epochs);
    if (file_.is_open()) begin_ = file_.size();
  }

 private:
  static constexpr std::string_view visible = "tfevents";  // in names that TensorBoard looks for

  static double now() {
    const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration<double>(since_1970).count();
  }

  /// What was written since the last run ended is the new one's.
  void take_the_place_of_earlier() {
    const std::string own = begin_ ? detail::file_content(path_).substr(*begin_) : "";
    const std::vector<std::filesystem::path> earlier = event_files();
    file_.close();
    for (const auto& path : earlier) set_aside(path);
    open();
    if (!earlier.empty()) drop_from(0);
    file_.write(own);
  }

  /// Makes TensorBoard forget what it has read of a step and all later ones.
  void drop_from(std::int64_t step) {
    const std::string mark = tfevents::record(tfevents::restart_event(now(), step).encoded());
    file_.write(mark + mark);  // the first that a directory has is taken for its beginning
  }

  void open() {
    if (file_.is_open()) return;
    is_first_ = event_files().empty();
    std::array<char, 256> host = {};  // one more than a name may have, so it stays terminated
    gethostname(host.data(), host.size() - 1);
    const double time = now();
    const std::string name = "events.out.tfevents." +
                             std::to_string(static_cast<std::int64_t>(time)) + '.' + host.data() +
                             '.' + std::to_string(getpid());
    path_ = directory_ / name;
    for (int n = 1; std::filesystem::exists(path_); ++n) {
      path_ = directory_ / (name + '.' + std::to_string(n));
    }
    file_ = detail::OutputFile::create(path_);
    file_.write(tfevents::record(tfevents::version_event(time).encoded()));
    begin_ = file_.size();
  }

  /// What TensorBoard finds in the directory.
  std::vector<std::filesystem::path> event_files() const {
    std::vector<std::filesystem::path> found;
    std::error_code missing;
    for (const auto& entry : std::filesystem::directory_iterator(directory_, missing)) {
      const std::string name = entry.path().filename().string();
      if (name.find(visible) != std::string::npos) found.push_back(entry.path());
    }
    return found;
  }

  static void set_aside(const std::filesystem::path& path) {
    std::string name = path.filename().string();
    name.replace(name.find(visible), visible.size(), "earlier");
    std::filesystem::path free = path.parent_path() / name;
    for (int n = 1; std::filesystem::exists(free); ++n) {
      free = path.parent_path() / (name + '.' + std::to_string(n));
    }
    std::error_code failure;
    std::filesystem::rename(path, free, failure);
    if (failure) throw WriteError(path.string(), "a file that can be renamed", failure.message());
  }

  void write(const tfevents::Message& summary, std::int64_t step) {
    open();
    file_.write(tfevents::record(tfevents::summary_event(now(), step, summary).encoded()));
  }

  std::filesystem::path directory_, path_;
  detail::OutputFile file_;
  std::optional<std::uintmax_t> begin_;  ///< of what in the file belongs to the run to come
  bool is_first_ = true;                 ///< nobody has written into the directory before
  std::int64_t step_ = 0;
};

}  // namespace contraflow
