#pragma once

#include <algorithm>
#include <cmath>
#include <exception>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/core/checksum.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/safetensors.hpp>
#include <contraflow/observe/report.hpp>
#include <contraflow/train/optimizer_state.hpp>
#include <contraflow/train/training.hpp>

/// @file
/// The whole state of a run on disk: every role, the optimiser, the seed, the counts.
///
/// A checkpoint is a folder `epoch-<number>`; a run that is resumed from it continues with the same
/// bits. A folder appears under its name only when it is complete and on the disk, so a crash while
/// writing leaves the one before; its files have checksums, so one that was damaged later is known.

namespace contraflow {

namespace detail {

inline constexpr std::int64_t checkpoint_version = 3;

inline std::string checkpoint_name(std::int64_t epoch) {
  std::string number = std::to_string(epoch);
  return "epoch-" + std::string(number.size() < 8 ? 8 - number.size() : 0, '0') + number;
}

/// The counts of a checkpoint's metadata.
inline std::map<std::string, std::int64_t> counts_in(
    const std::map<std::string, std::string>& metadata, const std::filesystem::path& path) {
  std::map<std::string, std::int64_t> counts;
  for (const auto& [name, text] : metadata) {
    try {
      counts[name] = std::stoll(text);
    } catch (const std::exception&) {
      throw Error(path.string(), "a whole number as " + name, text);
    }
  }
  return counts;
}

}  // namespace detail

namespace detail {

inline constexpr const char* checkpoint_files[] = {"state.safetensors", "optimizer.safetensors",
                                                   "optimizer.json"};
inline constexpr const char* checksums_name = "checksums.json";

/// The checksum of a file, as a text.
inline std::string checksum_of(const std::filesystem::path& path) {
  const MappedFile file(path.string());
  return shown(checksum(file.bytes(), file.size()));
}

inline void write_checksums(const std::filesystem::path& checkpoint) {
  nlohmann::json sums;
  for (const char* name : checkpoint_files) sums[name] = checksum_of(checkpoint / name);
  write_file(checkpoint / checksums_name, sums.dump(1) + "\n");
}

inline void write_optimizer(torch::optim::Optimizer& optimizer,
                            const std::filesystem::path& checkpoint) {
  const OptimizerState state = state_of(optimizer);
  write_safetensors(checkpoint / "optimizer.safetensors", state.tensors);
  write_file(checkpoint / "optimizer.json", state.values.dump(1) + "\n");
}

inline OptimizerState read_optimizer(const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / "optimizer.json";
  const MappedFile file(path.string());
  const std::string text(file.bytes(), file.size());
  auto values = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (values.is_discarded()) throw Error(path.string(), "JSON", "something else");
  return {read_safetensors(checkpoint / "optimizer.safetensors").tensors, std::move(values)};
}

}  // namespace detail

/// What of a checkpoint's files is not as it was written, in words; nothing where all is.
inline std::optional<std::string> damage_of(const std::filesystem::path& checkpoint) {
  if (!std::filesystem::exists(checkpoint / detail::checksums_name)) {
    return std::string(detail::checksums_name) + " is missing, as in checkpoints of 0.1";
  }
  try {
    const MappedFile file((checkpoint / detail::checksums_name).string());
    const auto sums = nlohmann::json::parse(std::string(file.bytes(), file.size()));
    for (const char* name : detail::checkpoint_files) {
      const std::string found = detail::checksum_of(checkpoint / name);
      if (sums.at(name).get<std::string>() != found) {
        return std::string(name) + " is not as it was written";
      }
    }
  } catch (const std::exception& failure) {
    return failure.what();
  }
  return std::nullopt;
}

/// The complete checkpoints in a folder, oldest first; none where there is no such folder.
inline std::vector<std::filesystem::path> checkpoints_in(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> found;
  std::error_code missing;
  for (const auto& entry : std::filesystem::directory_iterator(directory, missing)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("epoch-") && !name.ends_with(".partial")) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// Writes the state of a trainer to `directory/epoch-<number>`.
/// @param trainer a Trainer, an OfflineTrainer or a Pretrainer
/// @param directory is made where it is missing
/// @return the checkpoint's folder
/// @throws Error if a file cannot be written
template <class T>
std::filesystem::path save_checkpoint(T& trainer, const std::filesystem::path& directory) {
  namespace fs = std::filesystem;
  const fs::path final_path = directory / detail::checkpoint_name(trainer.epoch());
  const fs::path partial = fs::path(final_path).concat(".partial");
  try {
    fs::remove_all(partial);
    fs::create_directories(partial);
    const TrainerState state = trainer.state();
    std::map<std::string, std::string> metadata{
        {"version", std::to_string(detail::checkpoint_version)}};
    for (const auto& [name, count] : state.counts) metadata.emplace(name, std::to_string(count));
    write_safetensors(partial / "state.safetensors", state.tensors, metadata);
    detail::write_optimizer(trainer.optimizer(), partial);
    detail::write_checksums(partial);
    fs::remove_all(final_path);
    fs::rename(partial, final_path);
    flush_folder(directory);
  } catch (const fs::filesystem_error& failure) {
    throw Error(final_path.string(), "a folder that can be written", failure.code().message());
  } catch (const c10::Error& failure) {
    throw Error(final_path.string(), "a folder that can be written",
                failure.what_without_backtrace());
  }
  return final_path;
}

namespace detail {

/// Gives a trainer the state of a checkpoint whose files are as they were written.
template <class T>
void load_whole(T& trainer, const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / "state.safetensors";
  const SafetensorsFile file = read_safetensors(path);
  TrainerState state{{}, detail::counts_in(file.metadata, path)};
  const auto written_by = state.counts.find("version");
  if (written_by == state.counts.end()) {
    throw Error(path.string(), "a checkpoint's version", "none");
  }
  expects(written_by->second == detail::checkpoint_version, "checkpoint",
          "a version this library writes", written_by->second);
  for (const auto& [name, tensor] : file.tensors) state.tensors.emplace(name, tensor.clone());
  const OptimizerState before = state_of(trainer.optimizer());
  load_state(trainer.optimizer(), read_optimizer(checkpoint));
  try {
    trainer.load(state);
  } catch (const Error&) {
    load_state(trainer.optimizer(), before);
    throw;
  }
}

}  // namespace detail

/// Gives a trainer the state of a checkpoint.
/// @param trainer of the same composition
/// @param checkpoint a folder `epoch-<number>`
/// @throws Error if the checkpoint is damaged or of another composition
template <class T>
void load_checkpoint(T& trainer, const std::filesystem::path& checkpoint) {
  if (const auto damage = damage_of(checkpoint)) {
    throw Error(checkpoint.string(), "a checkpoint that is whole", *damage);
  }
  detail::load_whole(trainer, checkpoint);
}

/// Gives a trainer the newest checkpoint of a folder that is whole.
/// @param trainer of the composition that wrote it
/// @param directory may be missing
/// @param warn is told, as a Warning, of each newer one that is damaged
/// @return whether there was any checkpoint
/// @throws Error if all are damaged, or the newest whole one is of another composition
template <class T, class Warn>
bool resume(T& trainer, const std::filesystem::path& directory, Warn&& warn) {
  auto checkpoints = checkpoints_in(directory);
  if (checkpoints.empty()) return false;
  const auto count = checkpoints.size();
  for (; !checkpoints.empty(); checkpoints.pop_back()) {
    const auto damage = damage_of(checkpoints.back());
    if (!damage) {
      detail::load_whole(trainer, checkpoints.back());
      return true;
    }
    warn(Warning{"checkpoint/damaged", 1,
                 checkpoints.back().string() + " is damaged and left out: " + *damage});
  }
  throw Error(directory.string(), "a checkpoint that is whole", shown(count) + " damaged");
}
/// The same, without a word about damaged ones.
template <class T>
bool resume(T& trainer, const std::filesystem::path& directory) {
  return resume(trainer, directory, [](const Warning&) {});
}

/// Observer that writes the whole state of its trainer every few epochs and at the end.
///
/// `trainer.run(200, cf::Checkpoint{.directory = "run"})`; after a crash `resume(trainer, "run")`
/// continues with the same bits. Is called when all others were told of an epoch, so that what they
/// have written is never behind the newest checkpoint.
///
/// @throws Error from `after` and `finish` if an option is out of range or nothing can be written
struct Checkpoint {
  std::filesystem::path directory;  ///< is made where it is missing
  std::int64_t every = 10;          ///< epochs between checkpoints, at least 1
  std::int64_t keep = 2;            ///< newest checkpoints that are kept, at least 1
  std::int64_t written = -1;        ///< epoch of the last one; kept by the observer

  /// Refuses options out of range before any work is done.
  void start(const RunInfo&) const {
    expects(!directory.empty(), "directory", "a folder for checkpoints", "nothing");
    expects(every >= 1, "every", "at least 1", every);
    expects(keep >= 1, "keep", "at least 1", keep);
  }
  /// Writes where it is due; of several ranks the first.
  template <class T>
  void after(T& trainer, const EpochReport& report) {
    if (report.epoch % every == 0) write(trainer);
  }
  /// Writes the last epoch, unless that has been done.
  template <class T>
  void finish(T& trainer, const RunReport& report) {
    if (report.epochs != written && report.epochs > 0) write(trainer);
  }

 private:
  template <class T>
  void write(T& trainer) {
    if (trainer.communicator().rank() != 0) return;
    save_checkpoint(trainer, directory);
    written = trainer.epoch();
    auto all = checkpoints_in(directory);
    // Newer ones are not this run's: damaged, or of another.
    const std::string own = detail::checkpoint_name(written);
    std::erase_if(all, [&](const auto& path) { return path.filename().string() > own; });
    const auto kept = static_cast<std::size_t>(keep);
    for (std::size_t i = 0; i + kept < all.size(); ++i) std::filesystem::remove_all(all[i]);
  }
};

}  // namespace contraflow
