#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <exception>
#include <iostream>
#include <string>
#include <system_error>

#include <CLI/CLI.hpp>
#include <c10/util/Exception.h>

/// What programs share of what a person types, and is told.
namespace support {

namespace detail {

/// The number that a whole text is.
template <class T>
bool is_number(const std::string& text, T& value) {
  const char* end = text.data() + text.size();
  const auto [last, failure] = std::from_chars(text.data(), end, value);
  return failure == std::errc() && last == end;
}

inline CLI::Validator finite_number(const char* name, const char* expected, bool (*holds)(double)) {
  const auto check = [expected, holds](const std::string& text) {
    double value = 0;
    const bool is_right =
        is_number(text, value) && std::isfinite(value) && (holds == nullptr || holds(value));
    return is_right ? std::string()
                    : "expected " + std::string(expected) + ", got \"" + text + "\"";
  };
  return {check, name};
}

}  // namespace detail

/// A whole number from @p least on: CLI11 takes what is too large for the largest.
inline CLI::Validator at_least(std::int64_t least) {
  const auto check = [least](const std::string& text) {
    std::int64_t value = 0;
    if (detail::is_number(text, value) && value >= least) return std::string();
    return "expected a whole number from " + std::to_string(least) + " on, got \"" + text + "\"";
  };
  return {check, "FROM " + std::to_string(least)};
}
/// A whole number of a range.
inline CLI::Validator between(std::int64_t least, std::int64_t most) {
  const std::string range = std::to_string(least) + " to " + std::to_string(most);
  const auto check = [least, most, range](const std::string& text) {
    std::int64_t value = 0;
    if (detail::is_number(text, value) && value >= least && value <= most) return std::string();
    return "expected a whole number from " + range + ", got \"" + text + "\"";
  };
  return {check, range};
}
/// A seed or the like: for one CLI11 takes an empty text, and what is too large.
inline CLI::Validator natural() {
  const auto check = [](const std::string& text) {
    std::uint64_t value = 0;
    if (detail::is_number(text, value)) return std::string();
    return "expected a whole number from 0 to 2^64 - 1, got \"" + text + "\"";
  };
  return {check, "NATURAL"};
}
/// A number that is neither NaN nor infinite, which CLI11's ranges let pass.
inline CLI::Validator finite() {
  return detail::finite_number("FINITE", "a finite number", nullptr);
}
inline CLI::Validator at_least_0() {
  return detail::finite_number("NONNEGATIVE", "a number from 0 on",
                               [](double value) { return value >= 0; });
}
inline CLI::Validator above_0() {
  return detail::finite_number("POSITIVE", "a number above 0",
                               [](double value) { return value > 0; });
}

/// A text that is not empty, as that of a variable that is not set.
inline CLI::Validator not_empty() {
  const auto check = [](const std::string& text) {
    return text.empty() ? std::string("expected a file, got an empty text") : std::string();
  };
  return {check, "FILE"};
}

/// Ends what a program says.
/// @return its exit status, which is not 0 where that could not be written
inline int said(const char* program) {
  std::cout.flush();
  if (std::cout) return 0;
  std::cerr << program << ": standard output: expected a file that can be written\n";
  return 1;
}

/// Says why a program ends.
/// @return its exit status
inline int failed(const char* program, const std::exception& failure) {
  const auto* of_torch = dynamic_cast<const c10::Error*>(&failure);
  std::cerr << program << ": "
            << (of_torch != nullptr ? of_torch->what_without_backtrace() : failure.what()) << '\n';
  return 1;
}

}  // namespace support
