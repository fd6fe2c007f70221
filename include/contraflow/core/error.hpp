#pragma once

/// @file
/// The exception of the library, and how it is thrown.

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace contraflow {

/// The exception of the library: bad input, named.
///
/// Its text reads "argument: expected <what was expected>, got <what came>".
class Error : public std::runtime_error {
 public:
  /// @param argument name of the argument, option or file at fault
  /// @param expected what would have been accepted
  /// @param got what came instead
  Error(std::string argument, std::string expected, std::string got)
      : std::runtime_error(argument + ": expected " + expected + ", got " + got),
        argument_(std::move(argument)),
        expected_(std::move(expected)),
        got_(std::move(got)) {}

  /// Name of the argument, option or file at fault.
  const std::string& argument() const noexcept { return argument_; }
  /// What would have been accepted.
  const std::string& expected() const noexcept { return expected_; }
  /// What came instead.
  const std::string& got() const noexcept { return got_; }

 private:
  std::string argument_, expected_, got_;
};

/// A file or folder that could not be written: a disk that is full, or gone. It may be writable
/// later, so a run goes on: it is warned of once, and thrown where a run's end cannot be written.
class WriteError : public Error {
 public:
  using Error::Error;
};

/// Text of a value as it appears in an error.
template <class T>
std::string shown(const T& value) {
  std::ostringstream text;
  text << value;
  return std::move(text).str();
}

/// Throws Error unless @p holds.
/// @param holds the condition that valid input fulfils
/// @param argument name of the argument
/// @param expected what would have been accepted
/// @param got the value that came; printed with `operator<<`
template <class Got>
void expects(bool holds, const char* argument, const char* expected, const Got& got) {
  if (!holds) throw Error(argument, expected, shown(got));
}

/// Throws Error unless @p value is 1 or more.
inline void expects_at_least_one(std::int64_t value, const char* argument) {
  expects(value >= 1, argument, "at least 1", value);
}

}  // namespace contraflow
