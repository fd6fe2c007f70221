#pragma once

/// @file
/// Rewards as a command line or a file of settings names them.

#include <cmath>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include <contraflow/core/error.hpp>

namespace contraflow {

/// What a text such as `pickscore=0.5:models/PickScore_v1` asks for.
struct RewardText {
  std::string name;      ///< never empty
  std::string argument;  ///< a folder, a file, an address: what the name needs; may be empty
  double weight = 1;     ///< finite
};

namespace detail {

/// Before and behind the first of a sign; nothing behind where there is none.
inline std::pair<std::string, std::optional<std::string>> cut(const std::string& text, char sign) {
  const std::size_t place = text.find(sign);
  if (place == std::string::npos) return {text, std::nullopt};
  return {text.substr(0, place), text.substr(place + 1)};
}

}  // namespace detail

/// Reads `name`, `name=weight`, `name:argument` or `name=weight:argument`.
///
/// The first ":" ends name and weight; what is behind it is the argument as it stands, such as an
/// address with "=" in it.
/// @throws Error if there is no name, or the weight is not a finite number
inline RewardText reward_text(const std::string& text) {
  const auto [head, argument] = detail::cut(text, ':');
  const auto [name, number] = detail::cut(head, '=');
  if (name.empty()) {
    throw Error("reward", "a name, with =weight or :argument behind it or both", text);
  }
  RewardText result{name, argument.value_or(""), 1};
  if (number) {
    char* end = nullptr;
    result.weight = std::strtod(number->c_str(), &end);
    const bool is_number = !number->empty() && *end == '\0' && std::isfinite(result.weight);
    if (!is_number) throw Error("reward", "a finite weight behind " + name + "=", text);
  }
  return result;
}

}  // namespace contraflow
