#pragma once

#include <istream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <torch/version.h>

#include <contraflow/core/error.hpp>
#include <contraflow/version.hpp>

namespace support {

/// With what a program was run: its settings, defaults included, and what they ran on.
using RunRecord = nlohmann::json;

namespace detail {

inline bool is_flag(const CLI::Option& option) { return option.get_expected_min() == 0; }

/// A number where the option takes one, else the text as it was given.
inline RunRecord json_of(const CLI::Option& option, const std::string& text) {
  const std::string type = option.get_type_name();
  const bool is_number =
      type.starts_with("INT") || type.starts_with("UINT") || type.starts_with("FLOAT");
  RunRecord number = is_number ? RunRecord::parse(text, nullptr, false) : RunRecord();
  return number.is_number() ? number : RunRecord(text);
}

/// The value of an option; null where it has none.
inline RunRecord value_of(const CLI::Option& option) {
  const bool is_given = option.count() > 0;
  if (is_flag(option)) return is_given && option.as<bool>();
  if (!is_given && option.get_default_str().empty()) return nullptr;
  if (option.get_items_expected_max() > 1) return option.as<std::vector<std::string>>();
  return json_of(option, is_given ? option.results().back() : option.get_default_str());
}

/// The options of an app that say what is run, by their names.
inline RunRecord settings_of(const CLI::App& app) {
  RunRecord settings = RunRecord::object();
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_configurable() || option == app.get_help_ptr()) continue;
    RunRecord value = value_of(*option);
    if (!value.is_null()) settings[option->get_lnames().at(0)] = std::move(value);
  }
  return settings;
}

/// Gives CLI11 the settings of a RunRecord.
class RunFileFormat : public CLI::Config {
 public:
  std::string to_config(const CLI::App* app, bool, bool, std::string) const override {
    return RunRecord{{"settings", settings_of(*app)}}.dump(1);
  }
  std::vector<CLI::ConfigItem> from_config(std::istream& stream) const override {
    const RunRecord record = RunRecord::parse(stream, nullptr, false);
    if (!record.is_object() || !record.contains("settings")) {
      throw contraflow::Error("--again", "a run.json with settings", "something else");
    }
    std::vector<CLI::ConfigItem> taken;
    for (const auto& [name, value] : record["settings"].items()) {
      if (value == RunRecord(false)) continue;  // a flag that was not given
      CLI::ConfigItem item{{}, name, {}};
      for (const RunRecord& part : value.is_array() ? value : RunRecord::array({value})) {
        item.inputs.push_back(part.is_string() ? part.get<std::string>() : part.dump());
      }
      taken.push_back(std::move(item));
    }
    return taken;
  }
};

}  // namespace detail

/// Adds the option that runs again what a run.json says.
inline void add_run_file(CLI::App& app) {
  app.config_formatter(std::make_shared<detail::RunFileFormat>());
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.set_config("--again", "",
                 "The run.json of a run: its settings are taken; options beside it win")
      ->type_name("FILE")
      ->check(CLI::ExistingFile);
}

/// What was run, when all options are known.
/// @param ranks number of processes
inline RunRecord run_record(const CLI::App& app, const std::string& program, int ranks) {
  const contraflow::Version& v = contraflow::version;
  RunRecord record{{"program", program},
                   {"contraflow", std::to_string(v.major) + "." + std::to_string(v.minor) + "." +
                                      std::to_string(v.patch)},
                   {"libtorch", TORCH_VERSION},
                   {"ranks", ranks},
                   {"threads", at::get_num_threads()},
                   {"settings", detail::settings_of(app)}};
#ifdef CONTRAFLOW_COMMIT
  record["commit"] = CONTRAFLOW_COMMIT;
#endif
  return record;
}

/// A setting that two runs do not share; null where one has none.
struct OtherSetting {
  std::string name;
  RunRecord before, now;
};
/// In what the settings of two records differ.
inline std::vector<OtherSetting> other_settings(const RunRecord& before, const RunRecord& now) {
  const auto value = [](const RunRecord& record, const std::string& name) {
    return record.at("settings").value(name, RunRecord());
  };
  // A flag or a number that a program did not have yet is one that was not given.
  const auto is_off = [](const RunRecord& one) {
    return one.is_null() || one == RunRecord(false) || one == RunRecord(0);
  };
  std::vector<OtherSetting> others;
  RunRecord names = before.at("settings");
  names.update(now.at("settings"));
  for (const auto& [name, ignored] : names.items()) {
    OtherSetting other{name, value(before, name), value(now, name)};
    if (is_off(other.before) && is_off(other.now)) continue;
    if (other.before != other.now) others.push_back(std::move(other));
  }
  return others;
}

}  // namespace support
