#pragma once

/// @file
/// An observer that writes checkpoints.

#include <cstdint>
#include <filesystem>
#include <utility>

#include <contraflow/observe/report.hpp>
#include <contraflow/train/checkpoint.hpp>

namespace contraflow {

/// Where and how often checkpoints are written.
struct CheckpointOptions {
  std::filesystem::path directory;  ///< is made where it is missing
  std::int64_t every = 10;          ///< epochs between checkpoints, at least 1
  std::int64_t keep = 2;            ///< newest checkpoints that are kept, at least 1
};

/// Writes the whole state of a trainer every few epochs and at the end.
///
/// `trainer.run(200, Checkpoint(trainer, {.directory = "run"}))`; after a crash
/// `resume(trainer, "run")` continues with the same bits.
template <class T>
class Checkpoint {
 public:
  /// @param trainer whose state is written; must outlive the observer
  /// @param options where and how often
  Checkpoint(T& trainer, CheckpointOptions options)
      : trainer_(trainer), options_(std::move(options)) {
    expects(options_.every >= 1, "every", "at least 1", options_.every);
    expects(options_.keep >= 1, "keep", "at least 1", options_.keep);
  }

  /// Writes where it is due.
  void operator()(const EpochReport& report) {
    if (report.epoch % options_.every == 0) write();
  }
  /// Writes the last epoch, unless that has been done.
  void finish(const RunReport& report) {
    if (report.epochs != written_ && report.epochs > 0) write();
  }

 private:
  void write() {
    save_checkpoint(trainer_, options_.directory);
    written_ = trainer_.epoch();
    drop_old();
  }

  void drop_old() {
    const auto all = checkpoints_in(options_.directory);
    const auto kept = static_cast<std::size_t>(options_.keep);
    for (std::size_t i = 0; i + kept < all.size(); ++i) std::filesystem::remove_all(all[i]);
  }

  T& trainer_;
  CheckpointOptions options_;
  std::int64_t written_ = -1;
};

}  // namespace contraflow
