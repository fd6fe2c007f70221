#pragma once

/// @file
/// An observer that writes JSON lines.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <contraflow/observe/output_file.hpp>
#include <contraflow/observe/report.hpp>

namespace contraflow {

/// Options of JsonLines.
struct JsonLinesOptions {
  bool append = false;  ///< keep what the file holds, also when the run begins at epoch 1
};

/// Observer that writes a JSON object a line: for programs that read a run while or after it goes.
///
/// Every object has a "kind":
/// - "start": first_epoch, last_epoch
/// - "epoch": epoch, gradient_steps, forward_evaluations, backward_evaluations, seconds, and
///   "metrics", an object from name to value in the report's order
/// - "warning": quantity, value, message
/// - "finish": epochs, stopped, reason
///
/// A number that is not finite is null, as JSON has no other word for it. A metric that the epoch
/// does not have is absent. Each line is handed to the system as soon as it is complete.
///
/// The file is opened, and its missing parent directories made, when the run starts. A run that
/// begins at epoch 1 replaces the file unless `append` is set; one that continues
/// (`RunInfo::first_epoch` above 1) always appends, with a "start" line of its own. Before that,
/// the lines from the first epoch on that it will run again are dropped, and an unfinished last
/// line, as an interrupted run leaves them: every epoch of a run stands in the file once. What is
/// before stays byte for byte, and the file is replaced in one step. Pictures are not in it.
///
/// @throws Error naming the path, from any hook, when the file cannot be written
///
/// Draws no random numbers.
class JsonLines {
 public:
  /// @param path file to write
  /// @param options settings
  explicit JsonLines(std::filesystem::path path, JsonLinesOptions options = {})
      : path_(std::move(path)), options_(options) {}

  /// Opens the file and writes a "start" line.
  void start(const RunInfo& info) {
    const bool append = options_.append || info.first_epoch > 1;
    if (info.first_epoch > 1) drop_from(info.first_epoch);
    file_ = append ? detail::OutputFile::append_lines(path_) : detail::OutputFile::replace(path_);
    write({{"kind", "start"}, {"first_epoch", info.first_epoch}, {"last_epoch", info.last_epoch}});
  }

  /// Writes an "epoch" line.
  void operator()(const EpochReport& report) {
    Json metrics = Json::object();
    for (const Metric& metric : report.metrics) metrics.emplace(metric.name, metric.value);
    write({{"kind", "epoch"},
           {"epoch", report.epoch},
           {"gradient_steps", report.gradient_steps},
           {"forward_evaluations", report.forward_evaluations},
           {"backward_evaluations", report.backward_evaluations},
           {"seconds", report.seconds},
           {"metrics", std::move(metrics)}});
  }

  /// Writes a "warning" line.
  void warn(const Warning& warning) {
    write({{"kind", "warning"},
           {"quantity", warning.quantity},
           {"value", warning.value},
           {"message", warning.message}});
  }

  /// Writes a "finish" line and closes the file.
  void finish(const RunReport& run) {
    write({{"kind", "finish"},
           {"epochs", run.epochs},
           {"stopped", run.stopped},
           {"reason", run.reason}});
    file_.close();
  }

 private:
  using Json = nlohmann::ordered_json;

  /// The epoch of an "epoch" line.
  static std::optional<std::int64_t> epoch_of(std::string_view line) {
    const Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object() || object.value("kind", Json()) != "epoch") return std::nullopt;
    const Json epoch = object.value("epoch", Json());
    return epoch.is_number_integer() ? std::optional(epoch.get<std::int64_t>()) : std::nullopt;
  }

  void drop_from(std::int64_t first_epoch) {
    if (!std::filesystem::is_regular_file(path_)) return;
    const std::string content = detail::file_content(path_);
    const std::size_t kept =
        detail::size_before(detail::epoch_records(content, epoch_of), first_epoch, content.size());
    if (kept == content.size()) return;
    detail::replace_content(path_, std::string_view(content).substr(0, kept));
  }

  void write(const Json& object) {
    if (!file_.is_open()) file_ = detail::OutputFile::append_lines(path_);
    // Names and messages are the user's bytes: what is not UTF-8 is replaced rather than thrown at.
    file_.write(object.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n');
  }

  std::filesystem::path path_;
  JsonLinesOptions options_;
  detail::OutputFile file_;
};

}  // namespace contraflow
