#pragma once

/// @file
/// Names of metrics that observers are asked to look at.

#include <string>

#include <contraflow/core/error.hpp>
#include <contraflow/observe/report.hpp>

namespace contraflow::detail {

/// The names a report has, and those of which it says that others have them.
inline std::string metric_names(const EpochReport& report) {
  std::string names;
  const auto add = [&](const std::string& name) { names += (names.empty() ? "" : ", ") + name; };
  for (const Metric& metric : report.metrics) add(metric.name);
  for (const std::string& name : report.later) add(name);
  return names.empty() ? "none" : names;
}

/// @param report of an epoch
/// @param metric name given by the user
/// @param argument option that holds it
/// @throws Error with the names there are, when neither the epoch has the metric nor others may
/// have it
inline void expects_known(const EpochReport& report, const std::string& metric,
                          const std::string& argument) {
  if (report.knows(metric)) return;
  throw Error(argument,
              "a metric of this run (" + metric_names(report) +
                  "); one that only some epochs have is announced in the others by "
                  "report.add(name, std::nullopt)",
              metric);
}

}  // namespace contraflow::detail
