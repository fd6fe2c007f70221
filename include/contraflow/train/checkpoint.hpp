#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <vector>

#include <torch/serialize.h>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/train/updater.hpp>

/// @file
/// The whole state of a run on disk: every role, the optimiser, the random state, the counts.
///
/// A checkpoint is a folder `epoch-<number>`; a run that is resumed from it continues with the same
/// bits. A folder appears under its name only when it is complete, so a crash while writing leaves
/// the one before.

namespace contraflow {

namespace detail {

inline constexpr std::int64_t checkpoint_version = 1;

inline std::string checkpoint_name(std::int64_t epoch) {
  std::string number = std::to_string(epoch);
  return "epoch-" + std::string(number.size() < 8 ? 8 - number.size() : 0, '0') + number;
}

inline std::int64_t count_in(const std::map<std::string, std::string>& metadata,
                             const std::string& name, const std::filesystem::path& path) {
  const auto found = metadata.find(name);
  if (found == metadata.end()) throw Error(path.string(), "a checkpoint with " + name, "none");
  try {
    return std::stoll(found->second);
  } catch (const std::exception&) {
    throw Error(path.string(), "a whole number as " + name, found->second);
  }
}

}  // namespace detail

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
/// @param trainer a Trainer
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
    std::map<std::string, Tensor> tensors = trainer.policy().state();
    tensors.emplace("random_state", trainer.generator().get_state());
    tensors.emplace("loss_scale", trainer.loss_scale().state());
    const EvaluationCount& evaluations = trainer.evaluations();
    const std::int64_t nanoseconds = std::llround(trainer.seconds() * 1e9);
    write_safetensors(partial / "state.safetensors", tensors,
                      {{"version", std::to_string(detail::checkpoint_version)},
                       {"epoch", std::to_string(trainer.epoch())},
                       {"gradient_steps", std::to_string(trainer.gradient_steps())},
                       {"forward_evaluations", std::to_string(evaluations.forward)},
                       {"backward_evaluations", std::to_string(evaluations.backward)},
                       {"nanoseconds", std::to_string(nanoseconds)}});
    torch::serialize::OutputArchive archive;
    trainer.optimizer().save(archive);
    archive.save_to((partial / "optimizer.pt").string());
    fs::remove_all(final_path);
    fs::rename(partial, final_path);
  } catch (const fs::filesystem_error& failure) {
    throw Error(final_path.string(), "a folder that can be written", failure.code().message());
  } catch (const c10::Error& failure) {
    throw Error(final_path.string(), "a folder that can be written",
                failure.what_without_backtrace());
  }
  return final_path;
}

/// Gives a trainer the state of a checkpoint.
/// @param trainer a Trainer of the same composition
/// @param checkpoint a folder `epoch-<number>`
/// @throws Error if the checkpoint is incomplete or of another composition
template <class T>
void load_checkpoint(T& trainer, const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / "state.safetensors";
  const SafetensorsFile file = read_safetensors(path);
  const auto count = [&](const char* name) { return detail::count_in(file.metadata, name, path); };
  expects(count("version") == detail::checkpoint_version, "checkpoint",
          "a version this library writes", count("version"));
  const auto& tensors = file.tensors;
  const auto expected = [&](const char* name) {
    const auto found = tensors.find(name);
    if (found == tensors.end())
      throw Error(path.string(), "a tensor named " + std::string(name), "none");
    return found->second.clone();
  };
  const Tensor random = expected("random_state"), loss_scale = expected("loss_scale");
  try {
    torch::serialize::InputArchive archive;
    archive.load_from((checkpoint / "optimizer.pt").string());
    trainer.optimizer().load(archive);
    trainer.generator().set_state(random);
  } catch (const c10::Error& failure) {
    throw Error(checkpoint.string(), "the optimiser and the random state of this composition",
                failure.what_without_backtrace());
  }
  trainer.policy().load(tensors);
  trainer.loss_scale().load(loss_scale);
  trainer.resume(count("epoch"), count("gradient_steps"),
                 {count("forward_evaluations"), count("backward_evaluations")},
                 static_cast<double>(count("nanoseconds")) * 1e-9);
}

/// Gives a trainer the newest checkpoint of a folder.
/// @return whether there was one
template <class T>
bool resume(T& trainer, const std::filesystem::path& directory) {
  const auto checkpoints = checkpoints_in(directory);
  if (checkpoints.empty()) return false;
  load_checkpoint(trainer, checkpoints.back());
  return true;
}

}  // namespace contraflow
