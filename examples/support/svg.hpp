#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "format.hpp"
#include "html.hpp"

/// Pictures as text: plots that need no other program.
///
/// Colours are the variables of html::style, so a picture follows the light or dark screen it is
/// shown on, within a page and as a file of its own.
namespace support::svg {

struct Point {
  double x, y;
};

/// The colour of the series number @p i.
inline std::string colour_of(std::size_t i) {
  return "var(--series-" + std::to_string(i % 8) + ")";
}

/// Shapes in a rectangle of pixels, origin at the upper left.
class Canvas {
 public:
  Canvas(double width, double height) : width_(width), height_(height) {}

  double width() const { return width_; }
  double height() const { return height_; }

  void line(Point from, Point to, const std::string& colour, const std::string& more = "") {
    body_ += "<line x1=\"" + at(from.x) + "\" y1=\"" + at(from.y) + "\" x2=\"" + at(to.x) +
             "\" y2=\"" + at(to.y) + "\" stroke=\"" + colour + "\" " + more + "/>\n";
  }
  void rectangle(Point corner, double width, double height, const std::string& colour,
                 const std::string& more = "") {
    body_ += "<rect x=\"" + at(corner.x) + "\" y=\"" + at(corner.y) + "\" width=\"" + at(width) +
             "\" height=\"" + at(height) + "\" fill=\"" + colour + "\" " + more + "/>\n";
  }
  void polyline(const std::vector<Point>& points, const std::string& colour,
                const std::string& more = "") {
    body_ += "<path d=\"" + path(points) + "\" fill=\"none\" stroke=\"" + colour +
             "\" stroke-linejoin=\"round\" " + more + "/>\n";
  }
  void polygon(const std::vector<Point>& points, const std::string& colour,
               const std::string& more = "") {
    body_ += "<path d=\"" + path(points) + "Z\" fill=\"" + colour + "\" " + more + "/>\n";
  }
  /// Dots of one size: one short path, however many they are.
  void dots(const std::vector<Point>& points, double size, const std::string& colour,
            const std::string& more = "") {
    std::string d;
    for (const Point& point : points) d += "M" + at(point.x) + " " + at(point.y) + "h0";
    body_ += "<path d=\"" + d + "\" fill=\"none\" stroke=\"" + colour + "\" stroke-width=\"" +
             at(size) + "\" stroke-linecap=\"round\" " + more + "/>\n";
  }
  /// @param anchor start, middle or end
  void text(Point place, std::string_view text, const std::string& anchor = "start",
            const std::string& more = "fill=\"var(--muted)\"") {
    body_ += "<text x=\"" + at(place.x) + "\" y=\"" + at(place.y) + "\" text-anchor=\"" + anchor +
             "\" " + more + ">" + html::escaped(text) + "</text>\n";
  }
  /// @p text running upwards.
  void upward_text(Point place, std::string_view text) {
    body_ += "<text transform=\"translate(" + at(place.x) + " " + at(place.y) +
             ") rotate(-90)\" text-anchor=\"middle\" fill=\"var(--muted)\">" + html::escaped(text) +
             "</text>\n";
  }

  /// For a page that has html::style.
  std::string inline_text() const { return opening() + body_ + "</svg>\n"; }

  /// For a file of its own.
  std::string file_text() const {
    const std::string ground = "<rect width=\"100%\" height=\"100%\" fill=\"var(--panel)\"/>\n";
    return opening() + html::element("style", std::string(html::style)) + ground + body_ +
           "</svg>\n";
  }

 private:
  static std::string at(double value) {
    const std::string text = fixed(value, 1);
    return text.ends_with(".0") ? text.substr(0, text.size() - 2) : text;
  }
  static std::string path(const std::vector<Point>& points) {
    std::string d;
    for (const Point& point : points) {
      d += (d.empty() ? "M" : "L") + at(point.x) + " " + at(point.y);
    }
    return d;
  }
  std::string opening() const {
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + at(width_) + " " +
           at(height_) + "\" font-family=\"system-ui, sans-serif\" font-size=\"11.5\">\n";
  }

  double width_, height_;
  std::string body_;
};

/// One axis of a plot.
struct Axis {
  std::string label;
  double low = 0, high = 1;  ///< above 0 on a logarithmic axis
  bool is_logarithmic = false;

  /// Where @p value lies, 0 at the low end and 1 at the high end.
  double share(double value) const {
    if (!is_logarithmic) return (value - low) / (high - low);
    return std::log(value / low) / std::log(high / low);
  }
};

/// Round numbers on an axis.
inline std::vector<double> ticks_of(const Axis& axis, int about = 5) {
  std::vector<double> ticks;
  if (axis.is_logarithmic) {
    const bool is_short = axis.high / axis.low < 300;
    for (double decade = std::floor(std::log10(axis.low)); decade <= std::log10(axis.high) + 1e-9;
         ++decade) {
      for (const double digit : {1.0, 2.0, 5.0}) {
        const double tick = digit * std::pow(10, decade);
        if (digit != 1 && !is_short) continue;
        if (tick >= axis.low * 0.999 && tick <= axis.high * 1.001) ticks.push_back(tick);
      }
    }
    return ticks;
  }
  const double rough = (axis.high - axis.low) / about;
  const double unit = std::pow(10, std::floor(std::log10(rough)));
  const double ratio = rough / unit;
  const double step = unit * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
  for (double tick = std::ceil(axis.low / step - 1e-9) * step; tick <= axis.high + step * 1e-6;
       tick += step) {
    ticks.push_back(std::abs(tick) < step * 1e-6 ? 0 : tick);
  }
  return ticks;
}

inline std::string tick_text(double value) {
  const double size = std::abs(value);
  if (value == 0) return "0";
  if (size >= 1e6) return scientific(value / 1e6) + "M";
  if (size >= 1e4) return scientific(value / 1e3) + "k";
  if (size >= 1e-2) return scientific(value);
  return "1e" + fixed(std::log10(size), 0);
}

/// The area of a plot with its axes, and the way from values to pixels.
class Frame {
 public:
  Frame(Canvas& canvas, Axis x, Axis y, double top = 30)
      : x_(std::move(x)),
        y_(std::move(y)),
        left_(54),
        right_(canvas.width() - 14),
        top_(top),
        bottom_(canvas.height() - 40) {
    draw(canvas);
  }

  Point at(double x, double y) const {
    return {std::lerp(left_, right_, x_.share(x)), std::lerp(bottom_, top_, y_.share(y))};
  }
  double left() const { return left_; }
  double right() const { return right_; }
  double top() const { return top_; }
  double bottom() const { return bottom_; }

 private:
  void draw(Canvas& canvas) const {
    for (const double tick : ticks_of(y_)) {
      const double y = at(x_.low, tick).y;
      canvas.line({left_, y}, {right_, y}, "var(--line)");
      canvas.text({left_ - 7, y + 4}, tick_text(tick), "end");
    }
    for (const double tick : ticks_of(x_)) {
      const double x = at(tick, y_.low).x;
      canvas.line({x, bottom_}, {x, bottom_ + 4}, "var(--muted)");
      canvas.text({x, bottom_ + 17}, tick_text(tick), "middle");
    }
    canvas.line({left_, bottom_}, {right_, bottom_}, "var(--muted)");
    canvas.text({(left_ + right_) / 2, bottom_ + 34}, x_.label, "middle");
    canvas.upward_text({13, (top_ + bottom_) / 2}, y_.label);
  }

  Axis x_, y_;
  double left_, right_, top_, bottom_;
};

/// A curve, with a band around it where low and high are given.
struct Series {
  std::string name;
  std::size_t colour = 0;
  std::vector<double> x, y;
  std::vector<double> low = {}, high = {};
  bool has_marks = false;
  bool is_dashed = false;
};

namespace detail {

/// Names beside their colours, in a row, going on below where the row is full.
/// @return the height it takes
inline double legend(Canvas& canvas, const std::vector<Series>& series) {
  double x = 46, y = 15;
  for (const Series& one : series) {
    const double needed = 24 + 6.3 * static_cast<double>(one.name.size()) + 14;
    if (x + needed > canvas.width() && x > 46) {
      x = 46;
      y += 16;
    }
    canvas.line({x, y - 4}, {x + 16, y - 4}, colour_of(one.colour),
                "stroke-width=\"3\" stroke-linecap=\"round\"");
    canvas.text({x + 22, y}, one.name, "start", "fill=\"var(--ink)\"");
    x += needed;
  }
  return y + 13;
}

inline void curve(Canvas& canvas, const Frame& frame, const Series& series) {
  std::vector<Point> line, band;
  for (std::size_t i = 0; i < series.x.size(); ++i) {
    line.push_back(frame.at(series.x[i], series.y[i]));
    if (!series.high.empty()) band.push_back(frame.at(series.x[i], series.high[i]));
  }
  for (std::size_t i = series.low.size(); i-- > 0;) {
    band.push_back(frame.at(series.x[i], series.low[i]));
  }
  const std::string colour = colour_of(series.colour);
  if (!band.empty()) canvas.polygon(band, colour, "fill-opacity=\"0.16\"");
  canvas.polyline(
      line, colour,
      series.is_dashed ? "stroke-width=\"2\" stroke-dasharray=\"5 4\"" : "stroke-width=\"2\"");
  if (series.has_marks) canvas.dots(line, 6, colour);
}

}  // namespace detail

/// Curves over one pair of axes, with a legend.
inline Canvas line_plot(const Axis& x, const Axis& y, const std::vector<Series>& series,
                        double width = 360, double height = 250) {
  Canvas canvas(width, height);
  const double top = detail::legend(canvas, series);
  const Frame frame(canvas, x, y, top);
  for (const Series& one : series) {
    if (!one.x.empty()) detail::curve(canvas, frame, one);
  }
  return canvas;
}

/// A bar from 1, on a logarithmic axis, with its range.
struct Bar {
  double value;
  std::string text;       ///< beside it
  double low, high;       ///< of the whisker
  bool is_bound = false;  ///< drawn hollow: the true value lies further out
};

/// Bars that belong together, such as a task's.
struct BarGroup {
  std::string name;
  std::vector<std::optional<Bar>> bars;  ///< one for each name of the legend
};

/// Horizontal bars that show how many times as much something is: to the right of 1 more, to the
/// left less.
inline Canvas ratio_bars(const std::string& label, const std::vector<std::string>& names,
                         const std::vector<BarGroup>& groups, std::size_t first_colour = 0,
                         double width = 900) {
  constexpr double bar = 13, gap = 14, label_width = 118;
  double low = 0.5, high = 2;
  for (const BarGroup& group : groups) {
    for (const auto& one : group.bars) {
      if (!one) continue;
      low = std::min({low, one->value / 1.3, one->low / 1.1});
      high = std::max({high, one->value * 1.6, one->high * 1.25});
    }
  }
  const double group_height = bar * static_cast<double>(names.size()) + gap;
  const double top = 28;
  const double bottom = top + group_height * static_cast<double>(groups.size());
  Canvas canvas(width, bottom + 44);
  const Axis axis{label, low, high, true};
  const auto at = [&](double value) {
    return std::lerp(label_width, width - 20, axis.share(value));
  };
  std::vector<Series> legend;
  for (std::size_t i = 0; i < names.size(); ++i)
    legend.push_back({names[i], first_colour + i, {}, {}});
  detail::legend(canvas, legend);
  for (const double tick : ticks_of(axis)) {
    canvas.line({at(tick), top}, {at(tick), bottom}, "var(--line)");
    canvas.text({at(tick), bottom + 16}, tick_text(tick) + "×", "middle");
  }
  double y = top + gap / 2;
  for (const BarGroup& group : groups) {
    const double middle = y + bar * static_cast<double>(names.size()) / 2;
    canvas.text({label_width - 12, middle + 4}, group.name, "end", "fill=\"var(--ink)\"");
    for (std::size_t i = 0; i < group.bars.size(); ++i, y += bar) {
      const auto& one = group.bars[i];
      if (!one) {
        canvas.text({at(1) + 6, y + 10}, "neither reached it");
        continue;
      }
      const std::string colour = colour_of(first_colour + i);
      const double from = std::min(at(1), at(one->value));
      canvas.rectangle(
          {from, y + 1}, std::abs(at(one->value) - at(1)), bar - 2, colour,
          one->is_bound ? "fill-opacity=\"0.28\" stroke-dasharray=\"3 2\" stroke=\"" + colour + "\""
                        : "rx=\"1.5\"");
      if (!one->is_bound) {
        canvas.line({at(one->low), y + bar / 2}, {at(one->high), y + bar / 2}, "var(--ink)",
                    "stroke-opacity=\"0.55\"");
      }
      const double end = std::max({at(one->value), at(1), one->is_bound ? 0 : at(one->high)});
      canvas.text({end + 6, y + 10.5}, one->text);
    }
    y += gap;
  }
  canvas.line({at(1), top}, {at(1), bottom}, "var(--muted)");
  canvas.text({(label_width + width - 20) / 2, bottom + 36}, label, "middle");
  return canvas;
}

/// Points of the plane in several colours, in a square without axes.
struct Cloud {
  std::string colour;
  std::vector<Point> points;
};
inline Canvas scatter(const std::vector<Cloud>& clouds, double limit, double side = 220) {
  Canvas canvas(side, side);
  const auto pixel = [&](double value) { return (value / limit + 1) / 2 * side; };
  canvas.line({side / 2, 0}, {side / 2, side}, "var(--line)");
  canvas.line({0, side / 2}, {side, side / 2}, "var(--line)");
  for (const Cloud& cloud : clouds) {
    std::vector<Point> pixels;
    for (const Point& point : cloud.points) {
      if (std::abs(point.x) > limit || std::abs(point.y) > limit) continue;
      pixels.push_back({pixel(point.x), pixel(-point.y)});
    }
    canvas.dots(pixels, 2.6, cloud.colour, "stroke-opacity=\"0.6\"");
  }
  return canvas;
}

}  // namespace support::svg
