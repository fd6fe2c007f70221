#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/core/checksum.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/json.hpp>
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
/// It says of which run it is, and how many were written into its folder before it: the newest is
/// the one that was written last.

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
    const char* end = text.data() + text.size();
    const auto [read, fault] = std::from_chars(text.data(), end, counts[name]);
    if (fault != std::errc() || read != end) {
      throw Error(path.string(), "a whole number as " + name, excerpt(text));
    }
  }
  return counts;
}

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

inline void write_values(const nlohmann::json& values, const std::filesystem::path& checkpoint) {
  write_file(checkpoint / "optimizer.json", values.dump(1) + "\n");
}

inline OptimizerState read_optimizer(const std::filesystem::path& checkpoint) {
  return {read_safetensors(checkpoint / "optimizer.safetensors").tensors,
          read_json(checkpoint / "optimizer.json")};
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

namespace detail {

/// What a checkpoint says of itself, without its tensors.
struct KnownCheckpoint {
  std::filesystem::path path;
  bool is_readable = false;
  std::int64_t epoch = 0, run = 0;
  std::int64_t order = 0;  ///< how many were written into its folder before it
};

/// Reads what a checkpoint says of itself; nothing that is not written is an error.
inline KnownCheckpoint known_checkpoint(const std::filesystem::path& checkpoint) {
  const std::filesystem::path file = checkpoint / "state.safetensors";
  try {
    const auto counts = counts_in(read_safetensors(file).metadata, file);
    const auto count = [&](const char* name) {
      const auto found = counts.find(name);
      return found == counts.end() ? 0 : found->second;
    };
    expects_count(count("epoch"), "epoch");
    expects_count(count("order"), "order");
    return {checkpoint, true, count("epoch"), count("run"), count("order")};
  } catch (const Error&) {
    return {checkpoint};
  }
}

/// What is in a folder; nothing where there is none.
inline std::vector<std::filesystem::path> entries_of(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> found;
  std::error_code failure;
  std::filesystem::directory_iterator entry(directory, failure);
  while (!failure && entry != std::filesystem::directory_iterator()) {
    found.push_back(entry->path());
    entry.increment(failure);
  }
  if (failure && failure != std::errc::no_such_file_or_directory) {
    throw WriteError(directory.string(), "a folder that can be read", failure.message());
  }
  return found;
}

/// Removes what was half written when a run was killed, or when its disk was full.
inline void remove_partial(const std::filesystem::path& directory) {
  for (const std::filesystem::path& path : entries_of(directory)) {
    const std::string name = path.filename().string();
    std::error_code ignored;
    if (name.starts_with("epoch-") && name.ends_with(".partial")) {
      std::filesystem::remove_all(path, ignored);
    }
  }
}

/// The complete checkpoints in a folder in the order in which they were written, which is not that
/// of their epochs where a run went on from an older one; those that cannot be read are the last.
inline std::vector<KnownCheckpoint> known_checkpoints(const std::filesystem::path& directory) {
  std::vector<KnownCheckpoint> found;
  for (const std::filesystem::path& path : entries_of(directory)) {
    const std::string name = path.filename().string();
    if (!name.starts_with("epoch-") || name.ends_with(".partial")) continue;
    found.push_back(known_checkpoint(path));
  }
  const auto place = [](const KnownCheckpoint& checkpoint) {
    return std::tuple(!checkpoint.is_readable, checkpoint.order, checkpoint.path);
  };
  std::sort(found.begin(), found.end(),
            [&](const auto& a, const auto& b) { return place(a) < place(b); });
  return found;
}

/// The newest that can be read.
inline const KnownCheckpoint* newest_of(const std::vector<KnownCheckpoint>& checkpoints) {
  const auto found = std::find_if(checkpoints.rbegin(), checkpoints.rend(),
                                  [](const auto& checkpoint) { return checkpoint.is_readable; });
  return found == checkpoints.rend() ? nullptr : &*found;
}

[[noreturn]] inline void refuse_folder(const std::filesystem::path& directory,
                                       const std::string& found) {
  throw Error(directory.string(),
              "a folder of this run alone (resume the run that is there, take another folder, or "
              "set anew = true to replace what is there)",
              found);
}

/// Throws Error where the newest of a folder's checkpoints is of another run.
inline void expects_no_other_run(const std::filesystem::path& directory,
                                 const std::vector<KnownCheckpoint>& there, std::int64_t run) {
  const KnownCheckpoint* newest = newest_of(there);
  if (newest == nullptr || newest->run == run) return;
  refuse_folder(directory, "epoch " + shown(newest->epoch) + " of another run");
}

/// Throws Error unless a folder has no checkpoint, or those that a run at @p epoch goes on from.
inline void expects_own(const std::filesystem::path& directory, std::int64_t run,
                        std::int64_t epoch) {
  const std::vector<KnownCheckpoint> there = known_checkpoints(directory);
  if (there.empty()) return;
  expects_no_other_run(directory, there, run);
  const bool goes_on = std::any_of(there.begin(), there.end(), [&](const auto& known) {
    return known.is_readable && known.run == run && known.epoch <= epoch;
  });
  if (goes_on) return;
  const KnownCheckpoint* newest = newest_of(there);
  if (newest == nullptr) refuse_folder(directory, "checkpoints that are all damaged");
  refuse_folder(directory, "epoch " + shown(newest->epoch) + ", and none that epoch " +
                               shown(epoch + 1) + " would follow");
}

/// Makes a folder, and throws WriteError where no file can be made in it.
inline void expects_writable(const std::filesystem::path& directory) {
  try {
    make_folder(directory);
    const PendingFile trial((directory / "trial").string());
  } catch (const WriteError& failure) {
    throw WriteError(directory.string(), "a folder that can be written", failure.got());
  }
}

/// Removes a checkpoint; one of which a part is gone is none.
inline void remove_checkpoint(const std::filesystem::path& checkpoint) {
  const std::filesystem::path partial = std::filesystem::path(checkpoint).concat(".partial");
  std::error_code failure;
  std::filesystem::rename(checkpoint, partial, failure);
  std::filesystem::remove_all(failure ? checkpoint : partial, failure);
  if (failure) {
    throw WriteError(checkpoint.string(), "a folder that can be removed", failure.message());
  }
}

}  // namespace detail

/// The complete checkpoints in a folder, in the order in which they were written; those whose state
/// cannot be read are the last.
/// @return none where there is no such folder
/// @throws Error if the folder cannot be read
inline std::vector<std::filesystem::path> checkpoints_in(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> paths;
  for (auto& known : detail::known_checkpoints(directory)) paths.push_back(std::move(known.path));
  return paths;
}

namespace detail {

/// A checkpoint that is being written: a folder that is removed unless it is published.
class PendingCheckpoint {
 public:
  PendingCheckpoint(const std::filesystem::path& directory, std::int64_t epoch)
      : directory_(directory),
        path_(directory / checkpoint_name(epoch)),
        folder_(std::filesystem::path(path_).concat(".partial")) {
    const auto there = known_checkpoints(directory);
    const auto* newest = newest_of(there);
    order_ = newest == nullptr ? 0 : newest->order + 1;
    remove_partial(directory);
    make_folder(folder_);
  }
  PendingCheckpoint(const PendingCheckpoint&) = delete;
  ~PendingCheckpoint() {
    if (is_published_) return;
    try {
      remove_partial(directory_);
    } catch (const std::exception&) {  // what has failed before is to be told
    }
  }

  /// Where its files are written.
  const std::filesystem::path& folder() const { return folder_; }
  /// What it says of itself.
  std::map<std::string, std::string> metadata(
      const std::map<std::string, std::int64_t>& counts) const {
    std::map<std::string, std::string> metadata{{"version", std::to_string(checkpoint_version)},
                                                {"order", std::to_string(order_)}};
    for (const auto& [name, count] : counts) metadata.emplace(name, std::to_string(count));
    return metadata;
  }
  /// Gives it its name, when all files are there.
  std::filesystem::path publish() {
    try {
      write_checksums(folder_);
      std::filesystem::remove_all(path_);
      std::filesystem::rename(folder_, path_);
      flush_folder(directory_);
    } catch (const std::filesystem::filesystem_error& failure) {
      throw WriteError(path_.string(), "a folder that can be written", failure.code().message());
    }
    is_published_ = true;
    return path_;
  }

 private:
  std::filesystem::path directory_, path_, folder_;
  std::int64_t order_ = 0;
  bool is_published_ = false;
};

/// Whether the state of a trainer is divided between its ranks, which save it together.
template <class T>
concept SavesTogether = requires(T& trainer) {
  { trainer.state_parts() } -> std::same_as<std::vector<StatePart>>;
};

/// The first rank's share of what all ranks do together: where it fails, the others go on, and the
/// failure is thrown in the end.
class FirstRank {
 public:
  explicit FirstRank(bool is_first) : is_first_(is_first) {}
  template <class Work>
  void operator()(Work&& work) {
    if (!is_first_ || failure_) return;
    try {
      work();
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  bool has_failed() const { return failure_ != nullptr; }
  void throw_failure() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  bool is_first_;
  std::exception_ptr failure_;
};

/// Lets the first rank write what the ranks have, one tensor after the other: collective.
template <class Comm>
void write_parts(const Comm& communicator, std::vector<StatePart> parts, FirstRank& first,
                 const std::function<std::filesystem::path()>& path,
                 const std::function<std::map<std::string, std::string>()>& metadata) {
  // As write_safetensors() does: by size of elements, then by name.
  std::sort(parts.begin(), parts.end(), [](const StatePart& a, const StatePart& b) {
    return std::pair(-std::int64_t(a.like.element_size()), a.name) <
           std::pair(-std::int64_t(b.like.element_size()), b.name);
  });
  std::vector<TensorInfo> infos;
  for (const StatePart& part : parts) {
    infos.push_back({part.name, part.like.scalar_type(), part.like.sizes().vec()});
  }
  std::optional<SafetensorsWriter> writer;
  first([&] { writer.emplace(path(), infos, metadata()); });
  for (const StatePart& part : parts) {
    // The first rank's own part is no news for the others.
    const Tensor whole = part.owner == 0 ? part.values : whole_of(communicator, part);
    first([&] { writer->write(part.name, whole); });
  }
  first([&] { writer->publish(); });
}

/// save_checkpoint() of what is divided between ranks: collective.
template <SavesTogether T>
std::filesystem::path save_together(T& trainer, const std::filesystem::path& directory) {
  const auto& communicator = trainer.communicator();
  FirstRank first(communicator.rank() == 0);
  std::optional<PendingCheckpoint> pending;
  first([&] { pending.emplace(directory, trainer.epoch()); });
  write_parts(
      communicator, trainer.state_parts(), first,
      [&] { return pending->folder() / "state.safetensors"; },
      [&] { return pending->metadata(trainer.state().counts); });
  const OptimizerParts optimizer = trainer.optimizer_parts();
  write_parts(
      communicator, optimizer.parts, first,
      [&] { return pending->folder() / "optimizer.safetensors"; },
      [] { return std::map<std::string, std::string>{}; });
  first([&] { write_values(optimizer.values, pending->folder()); });
  first([&] { pending->publish(); });
  first.throw_failure();
  return directory / checkpoint_name(trainer.epoch());
}

}  // namespace detail

/// Writes the state of a trainer to `directory/epoch-<number>`.
/// @param trainer a Trainer, an OfflineTrainer or a Pretrainer; of one whose policy is divided
///   between ranks, all call it, and the first writes
/// @param directory is made where it is missing
/// @return the checkpoint's folder
/// @throws WriteError if a file cannot be written; Error if the optimiser is divided between ranks
///   and is not AdamW
template <class T>
std::filesystem::path save_checkpoint(T& trainer, const std::filesystem::path& directory) {
  if constexpr (detail::SavesTogether<T>) {
    return detail::save_together(trainer, directory);
  } else {
    detail::PendingCheckpoint pending(directory, trainer.epoch());
    const TrainerState state = trainer.state();
    write_safetensors(pending.folder() / "state.safetensors", state.tensors,
                      pending.metadata(state.counts));
    const OptimizerState optimizer = trainer.optimizer_state();
    write_safetensors(pending.folder() / "optimizer.safetensors", optimizer.tensors);
    detail::write_values(optimizer.values, pending.folder());
    return pending.publish();
  }
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
  state.tensors = file.tensors;
  const OptimizerState before = state_of(trainer.optimizer());
  trainer.load_optimizer(read_optimizer(checkpoint));
  try {
    trainer.load(state);
  } catch (...) {
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

/// Gives a trainer the newest checkpoint of a folder that is whole, which is the one written last.
/// @param trainer of the composition that wrote it
/// @param directory may be missing
/// @param warn is told, as a Warning, of each newer one that is damaged
/// @return whether there was any checkpoint
/// @throws Error if all are damaged, the folder cannot be read, or the newest whole one is of
/// another composition
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
/// A folder belongs to one run. Another one is refused before it begins, unless it says `anew`:
/// then its first checkpoint, once that is whole, takes the place of all that are there. A run that
/// goes on from an older checkpoint of its own replaces the newer ones in the same way. A disk that
/// is full costs the older checkpoints, never the newest that is whole. Epochs in which nothing was
/// learnt, such as those of a model that has gone to NaN, are not worth one: they would push out
/// those that are to be gone back to.
///
/// @throws Error from `check` if an option is out of range, or the folder is another run's or
/// cannot be written; from `after` and `finish` WriteError if nothing can be written, and Error if
/// another run has begun to write there
struct Checkpoint {
  std::filesystem::path directory;  ///< is made where it is missing
  std::int64_t every = 10;          ///< epochs between checkpoints, at least 1
  std::int64_t keep = 2;            ///< newest checkpoints that are kept, at least 1
  bool anew = false;                ///< replace what another run left in the folder
  std::int64_t written = -1;        ///< epoch of the last one; kept by the observer
  std::int64_t past = 0;            ///< those up to here are this run's past; kept likewise
  std::int64_t learnt = -1;         ///< gradient steps up to the last one; kept likewise

  /// Refuses options out of range, a folder that cannot be written, and one of another run.
  void check(const RunInfo& info) const {
    expects(!directory.empty(), "directory", "a folder for checkpoints", "nothing");
    expects(every >= 1, "every", "at least 1", every);
    expects(keep >= 1, "keep", "at least 1", keep);
    if (!anew) detail::expects_own(directory, info.run_number, info.first_epoch - 1);
    detail::expects_writable(directory);
  }
  /// Looks whether the epoch before the first is there.
  void start(const RunInfo& info) {
    written = learnt = -1;
    past = info.first_epoch - 1;
    detail::remove_partial(directory);
    for (const auto& known : detail::known_checkpoints(directory)) {
      const bool is_own = known.is_readable && known.run == info.run_number;
      if (is_own && known.epoch == past) written = past;
    }
  }
  /// Writes where it is due; of several ranks the first, with what the others have.
  template <class T>
  void after(T& trainer, const EpochReport& report) {
    if (report.epoch % every == 0 && report.gradient_steps != learnt) {
      write(trainer, report.gradient_steps);
    }
  }
  /// Writes the last epoch, unless that has been done, or it has learnt nothing since.
  template <class T>
  void finish(T& trainer, const RunReport& report) {
    bool is_due = report.epochs != written && report.epochs > 0 &&
                  (report.last.epoch == 0 || report.last.gradient_steps != learnt);
    if constexpr (detail::SavesTogether<T>) {  // the first rank knows what is there
      const auto& communicator = trainer.communicator();
      is_due = communicator.agree(is_due && communicator.rank() == 0);
    }
    if (is_due) write(trainer, report.last.gradient_steps);
  }

 private:
  template <class T>
  void write(T& trainer, std::int64_t gradient_steps) {
    const bool is_first = trainer.communicator().rank() == 0;
    if (!is_first && !detail::SavesTogether<T>) return;
    const std::int64_t run = trainer.run_number();
    detail::FirstRank first(is_first);
    first([&] {
      if (anew) return;
      detail::expects_no_other_run(directory, detail::known_checkpoints(directory), run);
    });
    if (!is_given_up(trainer, first)) save(trainer, run, first);
    if (is_given_up(trainer, first)) return;
    written = trainer.epoch();
    learnt = gradient_steps;
    if (is_first) remove_others(run, std::exchange(past, written));
  }

  /// Whether the first rank has failed: no rank goes on, and the first throws what it was.
  template <class T>
  static bool is_given_up(T& trainer, const detail::FirstRank& first) {
    bool has_failed = first.has_failed();
    if constexpr (detail::SavesTogether<T>) has_failed = trainer.communicator().agree(has_failed);
    first.throw_failure();
    return has_failed;
  }

  /// Saves, a second time where the disk was full and room could be made.
  template <class T>
  void save(T& trainer, std::int64_t run, detail::FirstRank& first) const {
    bool again = false;
    try {
      save_checkpoint(trainer, directory);
    } catch (const WriteError&) {
      first([&] {
        if (!make_room(run)) throw;
        again = true;
      });
    }
    if constexpr (detail::SavesTogether<T>) again = trainer.communicator().agree(again);
    if (!again) return;
    try {
      save_checkpoint(trainer, directory);
    } catch (const WriteError&) {
      first([] { throw; });
    }
  }

  /// Removes all of this run but the newest whole checkpoint of its past, and what is damaged.
  /// @return whether there was any
  bool make_room(std::int64_t run) const {
    const std::vector<detail::KnownCheckpoint> all = detail::known_checkpoints(directory);
    bool has_whole = false, has_removed = false;
    for (auto known = all.rbegin(); known != all.rend(); ++known) {
      if (known->is_readable && known->run != run) continue;
      const bool is_past = known->is_readable && known->epoch <= past;
      if (is_past && !has_whole && !damage_of(known->path)) {
        has_whole = true;
        continue;
      }
      detail::remove_checkpoint(known->path);
      has_removed = true;
    }
    return has_removed;
  }

  /// All but the newest ones of this run and its past.
  void remove_others(std::int64_t run, std::int64_t before) const {
    const std::vector<detail::KnownCheckpoint> all = detail::known_checkpoints(directory);
    std::int64_t kept = 0;
    for (auto known = all.rbegin(); known != all.rend(); ++known) {
      const bool is_own = known->is_readable && known->run == run &&
                          (known->epoch <= before || known->epoch == written);
      if (is_own && kept < keep) {
        ++kept;
      } else {
        detail::remove_checkpoint(known->path);
      }
    }
  }
};

}  // namespace contraflow
