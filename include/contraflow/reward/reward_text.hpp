#pragma once

/// @file
/// Rewards as a command line or a file of settings names them.

#include <cmath>
#include <cstdlib>
#include <string>
#include <utility>

#include <contraflow/core/error.hpp>

namespace contraflow {

/// What a text such as `pickscore:models/PickScore_v1=0.5` asks for.
struct RewardText {
  std::string name;      ///< never empty
  std::string argument;  ///< a folder, a file, an address: what the name needs; may be empty
  double weight = 1;     ///< finite
};

namespace detail {

/// Before and behind a place; the second is empty where there is none.
inline std::pair<std::string, std::string> cut(const std::string& text, std::size_t place) {
  if (place == std::string::npos) return {text, ""};
  return {text.substr(0, place), text.substr(place + 1)};
}

}  // namespace detail

/// Reads `name`, `name=weight`, `name:argument` or `name:argument=weight`.
///
/// An argument may hold ":" and "=" itself, as addresses do: the name ends at the first ":", and a
/// weight is a number behind the last "=".
/// @throws Error if there is no name, or the weight is not finite
inline RewardText reward_text(const std::string& text) {
  auto [what, number] = detail::cut(text, text.rfind('='));
  char* end = nullptr;
  double weight = std::strtod(number.c_str(), &end);
  if (number.empty() || *end != '\0') {
    what = text;
    weight = 1;
  }
  auto [name, argument] = detail::cut(what, what.find(':'));
  if (name.empty()) throw Error("reward", "a name, name:argument or either with =weight", text);
  if (!std::isfinite(weight)) throw Error("reward", "a finite weight", text);
  return {std::move(name), std::move(argument), weight};
}

}  // namespace contraflow
