#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace support {

/// @p value with a fixed number of decimals.
inline std::string fixed(double value, int decimals) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return text.data();
}

/// Three significant digits and a unit of thousands: 950, 12.3k, 1.20M.
inline std::string compact(double value) {
  const double size = std::abs(value);
  const auto scaled = [&](double unit, const char* name) {
    const double shown = value / unit;
    return fixed(shown, std::abs(shown) < 9.995 ? 2 : std::abs(shown) < 99.95 ? 1 : 0) + name;
  };
  if (size >= 999.5e3) return scaled(1e6, "M");
  if (size >= 999.5) return scaled(1e3, "k");
  if (size >= 99.95 || value == std::round(value)) return fixed(value, 0);
  return size >= 9.995 ? fixed(value, 1) : fixed(value, 2);
}

/// A learning rate or a tolerance: 3e-4, 0.01.
inline std::string scientific(double value) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), "%.3g", value);
  return text.data();
}

/// Texts with a separator between them.
inline std::string joined(const std::vector<std::string>& texts, const std::string& separator) {
  std::string result;
  for (const std::string& text : texts) result += (result.empty() ? "" : separator) + text;
  return result;
}

/// Linear interpolation between ranks; @p share in [0, 1]. Nothing where there are no values.
inline std::optional<double> quantile(std::vector<double> values, double share) {
  if (values.empty()) return std::nullopt;
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const double rest = place - static_cast<double>(below);
  if (rest == 0) return values[below];  // also where the next one is infinite
  return std::lerp(values[below], values[below + 1], rest);
}

}  // namespace support
