#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "table.hpp"

namespace support::html {

/// @p text with the characters that HTML and SVG give a meaning replaced.
inline std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

inline std::string element(const std::string& tag, const std::string& content,
                           const std::string& attributes = "") {
  return "<" + tag + (attributes.empty() ? "" : " " + attributes) + ">" + content + "</" + tag +
         ">\n";
}

inline std::string paragraph(std::string_view text) { return element("p", escaped(text)); }

inline std::string row(const Table& table, const std::vector<std::string>& cells,
                       const std::string& tag, const std::string& attributes = "") {
  std::string inner;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    inner += element(tag, escaped(cells[i]), i < table.text_columns() ? "class=\"text\"" : "");
  }
  return element("tr", inner, attributes);
}

inline std::string table(const Table& table) {
  std::string body;
  bool begins_group = false;
  for (const auto& cells : table.rows()) {
    if (!cells.empty()) body += row(table, cells, "td", begins_group ? "class=\"group\"" : "");
    begins_group = cells.empty();
  }
  const std::string head = element("thead", row(table, table.header(), "th"));
  return element("div", element("table", head + element("tbody", body)), "class=\"scroll\"");
}

/// The look of pages and pictures, for light and dark screens.
inline constexpr std::string_view style = R"css(
:root { color-scheme: light dark;
  --page: #fbfbfa; --panel: #ffffff; --ink: #1d2126; --muted: #66707c; --line: #dfe3e8;
  --series-0: #1f6fd1; --series-1: #d9622b; --series-2: #8a5bb5; --series-3: #2f8f5b;
  --series-4: #b5426f; --series-5: #8a7a1f; --series-6: #17888f; --series-7: #6b6f76; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171b; --panel: #1b1f25; --ink: #e4e7eb; --muted: #97a1ad; --line: #323942;
  --series-0: #6aa9f7; --series-1: #f2935f; --series-2: #bf9be3; --series-3: #69c694;
  --series-4: #ea86ac; --series-5: #cdbb55; --series-6: #58c4cb; --series-7: #a8aeb6; } }
)css";

inline constexpr std::string_view page_style = R"css(
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 44px 0 8px; padding-top: 18px; border-top: 1px solid var(--line); }
h3 { font-size: 15.5px; margin: 26px 0 6px; }
p { margin: 8px 0; max-width: 78ch; }
.muted, figcaption { color: var(--muted); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 12px 0; font-size: 13.5px;
  font-variant-numeric: tabular-nums; background: var(--panel); }
th, td { padding: 6px 12px; text-align: right; white-space: nowrap; }
th.text, td.text { text-align: left; }
th { font-weight: 600; color: var(--muted); border-bottom: 1px solid var(--line); }
tr + tr.group td { border-top: 1px solid var(--line); }
.wrap td { white-space: normal; vertical-align: top; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 14px; }
.grid.five { grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 10px; }
@media (max-width: 700px) { .grid.five { grid-template-columns: repeat(2, 1fr); } }
figure { margin: 10px 0; padding: 10px 12px; background: var(--panel);
  border: 1px solid var(--line); border-radius: 8px; }
figcaption { font-size: 13px; }
svg { display: block; width: 100%; height: auto; }
)css";

/// A page that needs no other file.
inline std::string page(const std::string& title, const std::string& body) {
  return "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n" +
         element("title", escaped(title)) +
         element("style", std::string(style) + std::string(page_style)) + "</head>\n<body>\n" +
         element("main", body) + "</body>\n</html>\n";
}

}  // namespace support::html
