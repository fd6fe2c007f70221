#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace support {

/// A table of texts: the first columns read from the left, numbers line up on the right.
class Table {
 public:
  /// @param text_columns number of columns that read from the left
  explicit Table(std::vector<std::string> header, std::size_t text_columns = 1)
      : header_(std::move(header)), text_columns_(text_columns) {}

  void add(std::vector<std::string> row) {
    row.resize(header_.size());
    rows_.push_back(std::move(row));
  }
  /// A line between groups of rows; none at the top, nor a second one.
  void add_rule() {
    if (!rows_.empty() && !rows_.back().empty()) rows_.emplace_back();
  }

  const std::vector<std::string>& header() const { return header_; }
  /// Rows; an empty one is a rule.
  const std::vector<std::vector<std::string>>& rows() const { return rows_; }

  std::size_t text_columns() const { return text_columns_; }

  /// For a terminal.
  std::string text() const {
    std::vector<std::size_t> widths;
    for (std::size_t i = 0; i < header_.size(); ++i) widths.push_back(width_of_column(i));
    std::string result = line(header_, widths) + rule(widths);
    for (const auto& row : rows_) result += row.empty() ? rule(widths) : line(row, widths);
    return result;
  }

 private:
  /// Characters, not bytes: continuation bytes of UTF-8 take no room.
  static std::size_t width_of(const std::string& text) {
    return static_cast<std::size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
  }

  std::size_t width_of_column(std::size_t column) const {
    std::size_t width = width_of(header_[column]);
    for (const auto& row : rows_) {
      if (!row.empty()) width = std::max(width, width_of(row[column]));
    }
    return width;
  }

  std::string line(const std::vector<std::string>& row,
                   const std::vector<std::size_t>& widths) const {
    std::string result;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string gap(widths[i] - width_of(row[i]), ' ');
      if (i > 0) result += "  ";
      result += i < text_columns_ ? row[i] + gap : gap + row[i];
    }
    return result.substr(0, result.find_last_not_of(' ') + 1) + "\n";
  }

  static std::string rule(const std::vector<std::size_t>& widths) {
    std::size_t total = 2 * (widths.size() - 1);
    for (const std::size_t width : widths) total += width;
    return std::string(total, '-') + "\n";
  }

  std::vector<std::string> header_;
  std::size_t text_columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace support
