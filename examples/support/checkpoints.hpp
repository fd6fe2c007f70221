#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/io/file.hpp>
#include <contraflow/io/folder_lock.hpp>
#include <contraflow/observe/report.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "ranks.hpp"

/// What programs that go on where they were killed share: `output/checkpoints` with a folder for
/// each thing that is trained, and the settings they were written under.
namespace support {

namespace detail {

/// @throws contraflow::Error that names a setting which two runs have, and in which they differ
inline void expects_same_settings(const nlohmann::ordered_json& before,
                                  const nlohmann::ordered_json& now) {
  for (const auto& [name, value] : now.items()) {
    const auto other = before.find(name);
    if (other == before.end() || *other == value) continue;
    throw contraflow::Error("--resume", name + " " + other->dump() + " of the run in the output",
                            value.dump());
  }
}

}  // namespace detail

/// The folder for the checkpoints of a program, empty unless it goes on: collective.
/// @param output of the program
/// @param settings in which a run that goes on must agree with the one before it
/// @param resume without it what an earlier run left there is removed
/// @throws contraflow::Error if the settings differ, or nothing can be written
inline std::filesystem::path checkpoint_folder(const std::filesystem::path& output,
                                               const nlohmann::ordered_json& settings, bool resume,
                                               const Ranks& ranks) {
  contraflow::expects(!output.empty(), "--output", "a folder", "an empty text");
  const std::filesystem::path folder = output / "checkpoints", file = folder / "settings.json";
  static std::optional<contraflow::FolderLock> lock;  // until the program ends
  by_first(ranks, [&] {
    contraflow::make_folder(output);
    lock.emplace(output);
    if (resume && std::filesystem::exists(file)) {
      std::ifstream text(file);
      const auto before = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
      contraflow::expects(before.is_object(), "--resume", "settings in JSON", file.string());
      return detail::expects_same_settings(before, settings);
    }
    // What is half removed belongs to no run: without its settings it is never gone on with.
    std::filesystem::remove(file);
    std::filesystem::remove_all(folder);
    contraflow::make_folder(folder);
    contraflow::write_file(file, settings.dump(1) + "\n");
  });
  return folder;
}

/// What a run has reported up to an epoch, from its JSON lines.
/// @param lines may be missing
inline std::vector<contraflow::EpochReport> reports_of(const std::filesystem::path& lines,
                                                       std::int64_t last_epoch) {
  std::vector<contraflow::EpochReport> reports;
  std::ifstream file(lines);
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || json.value("kind", "") != "epoch") continue;
    if (json.at("epoch").get<std::int64_t>() > last_epoch) break;
    contraflow::EpochReport& report = reports.emplace_back();
    json.at("epoch").get_to(report.epoch);
    json.at("gradient_steps").get_to(report.gradient_steps);
    json.at("forward_evaluations").get_to(report.forward_evaluations);
    json.at("backward_evaluations").get_to(report.backward_evaluations);
    json.at("seconds").get_to(report.seconds);
    for (const auto& [name, value] : json.at("metrics").items()) {
      report.add(name, value.is_null() ? NAN : value.get<double>());
    }
  }
  return reports;
}

/// Gives a trainer the newest checkpoint of a run, if there is one.
/// @param checkpoints folder of the run; empty: none
/// @param lines JSON lines of the run, if what it reported is needed
/// @return what the run has reported up to there
template <class Trainer>
std::vector<contraflow::EpochReport> resumed(Trainer& trainer,
                                             const std::filesystem::path& checkpoints,
                                             const std::filesystem::path& lines = {}) {
  const auto warn = [](const contraflow::Warning& warning) {
    std::fprintf(stderr, "%s\n", warning.message.c_str());
  };
  if (checkpoints.empty() || !contraflow::resume(trainer, checkpoints, warn)) return {};
  return reports_of(lines, trainer.epoch());
}

/// Trains to an epoch, and keeps checkpoints where there is a folder for them.
/// @param every epochs between checkpoints
template <class Trainer, class... Observers>
contraflow::RunReport run_kept(Trainer& trainer, std::int64_t epochs,
                               const std::filesystem::path& checkpoints, std::int64_t every,
                               Observers&&... observers) {
  if (checkpoints.empty()) return trainer.run(epochs, observers...);
  return trainer.run(epochs, observers...,
                     contraflow::Checkpoint{.directory = checkpoints, .every = every});
}

}  // namespace support
