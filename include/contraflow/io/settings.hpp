#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/core/error.hpp>
#include <contraflow/io/json.hpp>

/// @file
/// Settings in JSON: the config.json beside the weights of a network.

namespace contraflow {

/// A JSON object whose entries are checked as they are taken.
///
/// Every error names the object and the key, what was expected and what came. An entry that is null
/// counts as missing, as in Python's configurations. A missing entry is an error unless a fallback
/// is given; one of the wrong type always is.
class Settings {
 public:
  /// Reads a file.
  /// @param path a JSON object of at most 64 MiB, nested at most 64 deep, without repeated keys
  /// @throws Error naming the file, for one that cannot be read or is none
  explicit Settings(const std::filesystem::path& path) : Settings(read_json(path), path.string()) {}

  /// @param object a JSON object
  /// @param name what errors call it
  /// @throws Error if it is no object
  Settings(nlohmann::json object, std::string name)
      : object_(std::move(object)), name_(std::move(name)) {
    if (!object_.is_object()) throw Error(name_, "a JSON object", object_.type_name());
  }

  /// What errors call this object: the path of a file, as a rule.
  const std::string& name() const { return name_; }
  /// The object itself.
  const nlohmann::json& json() const { return object_; }
  /// Whether there is such an entry and it is not null.
  bool has(const std::string& key) const { return find(key) != nullptr; }

  /// An integer; 2.0 is none.
  /// @throws Error for a missing entry or another type
  std::int64_t integer(const std::string& key) const { return as_integer(key, required(key)); }
  /// An integer, or @p fallback where there is none.
  /// @throws Error for another type
  std::int64_t integer(const std::string& key, std::int64_t fallback) const {
    const nlohmann::json* found = find(key);
    return found == nullptr ? fallback : as_integer(key, *found);
  }
  /// An integer from @p least to @p most.
  /// @throws Error for a missing entry, another type or a number outside
  std::int64_t integer(const std::string& key, std::int64_t least, std::int64_t most) const {
    return between(key, integer(key), least, most);
  }
  /// An integer from @p least to @p most, or @p fallback where there is none.
  /// @throws Error for another type or a number outside
  std::int64_t integer(const std::string& key, std::int64_t least, std::int64_t most,
                       std::int64_t fallback) const {
    return has(key) ? integer(key, least, most) : fallback;
  }

  /// A size of a network: an integer from 1 to a million, since a larger one is a damaged file.
  /// @throws Error for a missing entry, another type or a number outside
  std::int64_t size(const std::string& key) const { return integer(key, 1, largest_size); }
  /// The same, or @p fallback where there is none.
  /// @throws Error for another type or a number outside
  std::int64_t size(const std::string& key, std::int64_t fallback) const {
    return integer(key, 1, largest_size, fallback);
  }

  /// A finite number, integers included.
  /// @throws Error for a missing entry or another type
  double number(const std::string& key) const { return as_number(key, required(key)); }
  /// A finite number, or @p fallback where there is none.
  /// @throws Error for another type
  double number(const std::string& key, double fallback) const {
    const nlohmann::json* found = find(key);
    return found == nullptr ? fallback : as_number(key, *found);
  }

  /// A string.
  /// @throws Error for a missing entry or another type
  std::string text(const std::string& key) const { return as_text(key, required(key)); }
  /// A string, or @p fallback where there is none.
  /// @throws Error for another type
  std::string text(const std::string& key, const std::string& fallback) const {
    const nlohmann::json* found = find(key);
    return found == nullptr ? fallback : as_text(key, *found);
  }

  /// Nothing, for an entry that has one legal value and may be missing.
  /// @throws Error for another value or type
  void expects_text(const std::string& key, const std::string& expected) const {
    const std::string got = text(key, expected);
    if (got != expected) throw Error(label(key), expected, got);
  }

  /// A boolean; 0 and 1 are none.
  /// @throws Error for a missing entry or another type
  bool boolean(const std::string& key) const { return as_boolean(key, required(key)); }
  /// A boolean, or @p fallback where there is none.
  /// @throws Error for another type
  bool boolean(const std::string& key, bool fallback) const {
    const nlohmann::json* found = find(key);
    return found == nullptr ? fallback : as_boolean(key, *found);
  }

  /// A list of integers, possibly empty.
  /// @throws Error for a missing entry or another type
  std::vector<std::int64_t> integers(const std::string& key) const {
    return as_integers(key, required(key));
  }
  /// A list of integers, or @p fallback where there is none.
  /// @throws Error for another type
  std::vector<std::int64_t> integers(const std::string& key,
                                     const std::vector<std::int64_t>& fallback) const {
    const nlohmann::json* found = find(key);
    return found == nullptr ? fallback : as_integers(key, *found);
  }

  /// A list of strings, possibly empty.
  /// @throws Error for a missing entry or another type
  std::vector<std::string> texts(const std::string& key) const {
    return as_texts(key, required(key));
  }
  /// A list of strings, or @p fallback where there is none.
  /// @throws Error for another type
  std::vector<std::string> texts(const std::string& key,
                                 const std::vector<std::string>& fallback) const {
    const nlohmann::json* found = find(key);
    return found == nullptr ? fallback : as_texts(key, *found);
  }

  /// An object within this one; errors about it name both.
  /// @throws Error for a missing entry or another type
  Settings section(const std::string& key) const { return Settings(required(key), label(key)); }

 private:
  static constexpr std::int64_t largest_size = 1'000'000;

  const nlohmann::json* find(const std::string& key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  const nlohmann::json& required(const std::string& key) const {
    const nlohmann::json* found = find(key);
    if (found == nullptr) throw Error(label(key), "an entry", "none");
    return *found;
  }

  std::string label(const std::string& key) const { return name_ + ": " + excerpt(key); }

  [[noreturn]] void misplaced(const std::string& key, const char* expected,
                              const nlohmann::json& value) const {
    throw Error(label(key), expected, value.type_name());
  }

  std::int64_t as_integer(const std::string& key, const nlohmann::json& value) const {
    constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (!value.is_number_integer()) misplaced(key, "an integer", value);
    if (value.is_number_unsigned() && value.get<std::uint64_t>() > most) {
      throw Error(label(key), "an integer of 64 bits", shown(value.get<std::uint64_t>()));
    }
    return value.get<std::int64_t>();
  }

  std::int64_t between(const std::string& key, std::int64_t value, std::int64_t least,
                       std::int64_t most) const {
    if (value < least || value > most) {
      throw Error(label(key),
                  "an integer from " + std::to_string(least) + " to " + std::to_string(most),
                  std::to_string(value));
    }
    return value;
  }

  double as_number(const std::string& key, const nlohmann::json& value) const {
    if (!value.is_number()) misplaced(key, "a number", value);
    const double number = value.get<double>();
    if (!std::isfinite(number)) throw Error(label(key), "a finite number", shown(number));
    return number;
  }

  std::string as_text(const std::string& key, const nlohmann::json& value) const {
    if (!value.is_string()) misplaced(key, "a string", value);
    return value.get<std::string>();
  }

  bool as_boolean(const std::string& key, const nlohmann::json& value) const {
    if (!value.is_boolean()) misplaced(key, "a boolean", value);
    return value.get<bool>();
  }

  std::vector<std::int64_t> as_integers(const std::string& key, const nlohmann::json& value) const {
    if (!value.is_array()) misplaced(key, "a list of integers", value);
    std::vector<std::int64_t> result;
    for (const nlohmann::json& entry : value) result.push_back(as_integer(key, entry));
    return result;
  }

  std::vector<std::string> as_texts(const std::string& key, const nlohmann::json& value) const {
    if (!value.is_array()) misplaced(key, "a list of strings", value);
    std::vector<std::string> result;
    for (const nlohmann::json& entry : value) result.push_back(as_text(key, entry));
    return result;
  }

  nlohmann::json object_;
  std::string name_;
};

}  // namespace contraflow
