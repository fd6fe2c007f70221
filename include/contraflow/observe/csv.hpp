#pragma once

/// @file
/// An observer that writes a table.

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <contraflow/observe/output_file.hpp>
#include <contraflow/observe/report.hpp>

namespace contraflow {

namespace detail {

inline constexpr std::array<std::string_view, 5> csv_report_columns = {
    "epoch", "gradient_steps", "forward_evaluations", "backward_evaluations", "seconds"};

/// Shortest decimal text that reads back as the same double; "nan", "inf" or "-inf" otherwise.
inline std::string csv_number(double value) {
  if (std::isnan(value)) return "nan";  // to_chars would show the sign of a NaN
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}

/// A field of RFC 4180: quoted where it holds a comma, a quote or a line break.
inline std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string field = "\"";
  for (const char c : text) field.append(c == '"' ? 2 : 1, c);
  return field + '"';
}

inline std::string csv_header(const std::vector<std::string>& columns) {
  std::string header;
  for (const std::string& column : columns) {
    if (!header.empty()) header += ',';
    header += csv_field(column);
  }
  return header + '\n';
}

/// Names in the first line of @p content. A quoted name may itself hold commas and line breaks.
inline std::vector<std::string> csv_columns(std::string_view content) {
  std::vector<std::string> columns(1);
  bool quoted = false;
  for (std::size_t i = 0; i < content.size(); ++i) {
    const char c = content[i];
    if (c == '"' && quoted && content.substr(i + 1, 1) == "\"") {
      columns.back() += content[++i];
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      columns.emplace_back();
    } else if (c == '\n' && !quoted) {
      return columns;
    } else {
      columns.back() += c;
    }
  }
  return columns;
}

}  // namespace detail

/// Options of Csv.
struct CsvOptions {
  bool append = false;  ///< keep the rows the file holds, also when the run begins at epoch 1
};

/// Observer that writes a table with a row an epoch: for spreadsheets, data frames and gnuplot.
///
/// The columns are epoch, gradient_steps, forward_evaluations, backward_evaluations, seconds, and
/// one for each metric, named by it (quoted as RFC 4180 asks where needed; lines end in "\n"). A
/// metric that comes up later gets a column at the right: the file is then replaced, in one step,
/// by a wider one. A cell is empty where the epoch lacks the metric, and "nan", "inf" or "-inf"
/// where its value is not finite. Numbers read back as the same double. Warnings and the way the
/// run ended are not in the table.
///
/// The file is opened, and its missing parent directories made, when the run starts. A run that
/// begins at epoch 1 replaces the file unless `append` is set; one that continues
/// (`RunInfo::first_epoch` above 1) always appends. Before that, the rows of epochs that it will
/// run again are dropped, and an unfinished last row, as an interrupted run leaves them: every
/// epoch of a run has one row. What is before stays byte for byte, and the file is replaced in one
/// step.
///
/// @throws Error naming the path, from any hook, when it is not a regular file that can be
/// written, or, when appending, holds something other than such a table
///
/// Draws no random numbers.
class Csv {
 public:
  /// @param path file to write
  /// @param options settings
  explicit Csv(std::filesystem::path path, CsvOptions options = {})
      : path_(std::move(path)), options_(options) {}

  /// Opens the file.
  void start(const RunInfo& info) {
    open(options_.append || info.first_epoch > 1);
    if (info.first_epoch > 1) drop_from(info.first_epoch);
  }

  /// Writes a row.
  void operator()(const EpochReport& report) {
    if (!file_.is_open()) open(true);
    add_columns(report.metrics);
    std::string row = std::to_string(report.epoch) + ',' + std::to_string(report.gradient_steps) +
                      ',' + std::to_string(report.forward_evaluations) + ',' +
                      std::to_string(report.backward_evaluations) + ',' +
                      detail::csv_number(report.seconds);
    for (std::size_t i = detail::csv_report_columns.size(); i < columns_.size(); ++i) {
      const auto value = report.find(columns_[i]);
      row += ',' + (value ? detail::csv_number(*value) : "");
    }
    file_.write(row + '\n');
  }

  /// Closes the file.
  void finish(const RunReport&) { file_.close(); }

 private:
  void open(bool append) {
    using detail::OutputFile;
    columns_.assign(detail::csv_report_columns.begin(), detail::csv_report_columns.end());
    file_ = append ? OutputFile::append_lines(path_) : OutputFile::replace(path_);
    if (!std::filesystem::is_regular_file(path_)) {
      throw Error(path_.string(), "a regular file (its header may grow)", "another kind of file");
    }
    const std::string content = detail::file_content(path_);
    if (content.empty()) {
      const std::string header = detail::csv_header(columns_);
      try {
        return file_.write(header);
      } catch (const WriteError&) {
        file_.close();  // a table begins with its header, or not at all
        throw;
      }
    }
    const std::vector<std::string> found = detail::csv_columns(content);
    const bool ours = found.size() >= columns_.size() &&
                      std::equal(columns_.begin(), columns_.end(), found.begin()) &&
                      content.starts_with(detail::csv_header(found));
    if (!ours) {
      throw Error(path_.string(), "a table whose header begins " + detail::csv_header(columns_),
                  detail::csv_header(found));
    }
    columns_ = found;
  }

  /// The epoch of a row: its first cell.
  static std::optional<std::int64_t> epoch_of(std::string_view row) {
    std::int64_t epoch = 0;
    const auto read = std::from_chars(row.data(), row.data() + row.size(), epoch);
    return read.ec == std::errc() ? std::optional(epoch) : std::nullopt;
  }

  void drop_from(std::int64_t first_epoch) {
    const std::string content = detail::file_content(path_);
    const std::size_t header_size = detail::csv_header(columns_).size();
    const std::string_view rows = std::string_view(content).substr(header_size);
    const std::size_t kept =
        detail::size_before(detail::epoch_records(rows, epoch_of), first_epoch, rows.size());
    if (kept < rows.size()) replace(std::string_view(content).substr(0, header_size + kept));
  }

  void add_columns(const std::vector<Metric>& metrics) {
    std::vector<std::string> columns = columns_;
    const auto metric_columns = static_cast<std::ptrdiff_t>(detail::csv_report_columns.size());
    for (const Metric& metric : metrics) {
      const auto begin = columns.begin() + metric_columns;
      if (std::find(begin, columns.end(), metric.name) == columns.end()) {
        columns.push_back(metric.name);
      }
    }
    if (columns.size() > columns_.size()) widen(columns);
  }

  /// Rewrites the table under a longer header, which is the table's only where that succeeds.
  void widen(const std::vector<std::string>& columns) {
    const std::size_t header_size = detail::csv_header(columns_).size();
    const std::string content = detail::file_content(path_);
    std::string wider = detail::csv_header(columns);
    for (const char c : std::string_view(content).substr(header_size)) {
      if (c == '\n') wider.append(columns.size() - columns_.size(), ',');
      wider += c;
    }
    replace(wider);
    columns_ = columns;
  }

  void replace(std::string_view content) {
    detail::replace_content(path_, content);
    file_ = detail::OutputFile::append_lines(path_);
  }

  std::filesystem::path path_;
  CsvOptions options_;
  std::vector<std::string> columns_;
  detail::OutputFile file_;
};

}  // namespace contraflow
