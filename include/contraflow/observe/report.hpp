#pragma once

/// @file
/// What observers are told, and what they may answer.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace contraflow {

/// A named number of a report, such as {"reward/mean", 0.31}.
struct Metric {
  std::string name;  ///< as listed on the page on observers
  double value;      ///< may be NaN or infinite
};

/// A picture of a report, as the bytes of a PNG file.
struct Picture {
  std::string name;     ///< as a metric's
  std::string png;      ///< the bytes of a PNG file, such as encode_png() gives
  std::int64_t width;   ///< in pixels
  std::int64_t height;  ///< in pixels
};

/// What is known when a run begins.
struct RunInfo {
  std::int64_t first_epoch = 1;  ///< 1, or the epoch a resumed run continues with
  std::int64_t last_epoch = 0;   ///< the last epoch asked for
  std::int64_t run_number = 0;   ///< the same where the run is resumed, another in every other run
};

/// What one epoch (collect, score, update) gave.
///
/// Names of metrics are stable; the page on observers lists them. A metric that has no value in an
/// epoch (an evaluation that was not due) is absent, never zero, and its name stands in `later`, by
/// which an observer tells it from one that there will never be.
struct EpochReport {
  std::int64_t epoch = 0;                 ///< epochs finished, counted from 1
  std::int64_t gradient_steps = 0;        ///< optimiser steps since the start
  std::int64_t forward_evaluations = 0;   ///< velocities of one sample computed since the start
  std::int64_t backward_evaluations = 0;  ///< of those, the ones differentiated
  double seconds = 0;                     ///< wall-clock seconds since the start, training only
  std::vector<Metric> metrics = {};       ///< in a fixed order
  std::vector<Picture> pictures = {};     ///< for observers that show or write them
  /// Metrics that other epochs have, and this one has not; "loss" stands for "loss/nft" too.
  std::vector<std::string> later = {};

  /// Adds a metric.
  void add(std::string name, double value) { metrics.push_back({std::move(name), value}); }
  /// Adds a metric where it has a value; else it is one that other epochs have.
  /// @param name of the metric
  /// @param value may be absent: `report.add("mine", std::nullopt)`
  void add(std::string name, std::optional<double> value) {
    if (value) {
      add(std::move(name), *value);
    } else {
      later.push_back(std::move(name));
    }
  }

  /// What the evaluations so far have cost, in forward evaluations: one that is differentiated
  /// costs two more.
  double evaluation_cost() const {
    return static_cast<double>(forward_evaluations) + 2 * static_cast<double>(backward_evaluations);
  }

  /// Value of the metric called @p name, if the epoch has it.
  std::optional<double> find(std::string_view name) const {
    for (const Metric& metric : metrics) {
      if (metric.name == name) return metric.value;
    }
    return std::nullopt;
  }

  /// Whether this epoch has the metric called @p name, or others may have it.
  bool knows(std::string_view name) const {
    const auto stands_for = [&](std::string_view other) {
      return name.starts_with(other) && (name.size() == other.size() || name[other.size()] == '/');
    };
    return find(name) || std::any_of(later.begin(), later.end(), stands_for);
  }
};

/// A quantity that left the range in which training is healthy, or an event worth a person's
/// attention.
struct Warning {
  std::string quantity;  ///< name of the metric or event
  double value = 0;      ///< its value
  std::string message;   ///< one sentence for a person
};

/// What an observer may answer to a report.
struct Verdict {
  bool stop = false;                   ///< end the run after this epoch
  std::string reason = {};             ///< why, for the final report
  std::vector<Warning> warnings = {};  ///< passed on to every observer
};

/// How a run ended.
struct RunReport {
  std::int64_t epochs = 0;  ///< epochs finished in total, resumed ones included
  bool stopped = false;     ///< an observer asked for the end
  std::string reason = {};  ///< why, when stopped
  EpochReport last = {};    ///< report of the last epoch
};

}  // namespace contraflow
