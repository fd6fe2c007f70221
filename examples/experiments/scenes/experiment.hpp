#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iostream>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "files.hpp"
#include "support/progress.hpp"
#include "support/statistics.hpp"
#include "support/svg.hpp"
#include "support/workers.hpp"

/// Many runs from one base, and what is to be said of them.
namespace scenes_example {

namespace svg = support::svg;

/// What an experiment is told.
struct Plan {
  std::filesystem::path output;
  std::filesystem::path checkpoints;  ///< folder
  int seeds = 3;
  int threads = 1;  ///< runs at a time
  bool quick = false;
  const support::Ranks& ranks;  ///< between which runs are divided
};

/// A way to train, and its runs by seed.
struct Entry {
  std::string name;
  Settings settings;
  std::vector<Run> runs = {};
};

/// Settings with which a run takes about a second.
inline void shorten(Settings& settings) {
  settings.epochs = settings.evaluate_every = 1;
  settings.prompts = 3;
  settings.group_size = 8;
  settings.evaluated = 4;
}

/// "nft-1" from "NFT" and seed 1.
inline std::string run_name(const Entry& entry, std::uint64_t seed) {
  std::string name;
  for (const char c : entry.name) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.';
    if (plain) {
      name += char(std::tolower(static_cast<unsigned char>(c)));
    } else if (!name.empty() && name.back() != '_') {
      name += '_';
    }
  }
  return name + "-" + std::to_string(seed);
}

/// The result of a run in words.
inline std::string text_of(const Entry& entry, const Run& run) {
  return entry.name + ", seed " + std::to_string(run.settings.seed) + ": " +
         support::fixed(run.curve.back().strict.overall, 3) + " after " +
         support::compact(run.curve.back().evaluations) + " evaluations, best " +
         support::fixed(best_of(run), 3);
}

/// Fills in the runs of all entries, in the order of the seeds, or as many as are finished when a
/// signal comes.
inline void run_all(std::vector<Entry*> entries, const std::vector<std::uint64_t>& seeds,
                    const SceneFlow& base, const Plan& plan) {
  const std::size_t pieces = entries.size() * seeds.size();
  support::Progress progress(int(pieces), "runs", support::is_first(plan.ranks));
  support::Workers workers;
  std::mutex mutex;
  const auto run = [&](Entry& entry, std::uint64_t seed) {
    if (cf::StopOnInterrupt::interrupted()) return;
    Settings settings = entry.settings;
    settings.seed = seed;
    const std::string name = run_name(entry, seed);
    Run result = improved(base, settings, 1,
                          Watched{.lines = plan.output / "runs" / (name + ".jsonl"),
                                  .checkpoints = plan.checkpoints / name},
                          plan.ranks.alone());
    const std::lock_guard lock(mutex);
    progress.advance(entry.name);
    progress.say(text_of(entry, result));
    if (result.is_complete) entry.runs.push_back(std::move(result));
  };
  support::divided(plan.ranks, pieces, support::NeededBy::all, [&](const auto& own) {
    for (const std::size_t i : own) {
      Entry& entry = *entries[i % entries.size()];
      workers.add(0, [&, seed = seeds[i / entries.size()]] { run(entry, seed); });
    }
    workers.run(plan.threads);
  });
  progress.finish();
  for (Entry* entry : entries) {
    std::sort(entry->runs.begin(), entry->runs.end(),
              [](const Run& a, const Run& b) { return a.settings.seed < b.settings.seed; });
  }
}

/// 1 ... count.
inline std::vector<std::uint64_t> seeds_to(int count) {
  std::vector<std::uint64_t> seeds;
  for (int i = 1; i <= count; ++i) seeds.push_back(std::uint64_t(i));
  return seeds;
}

/// The overall scores of runs, in the form that support's statistics take.
inline std::vector<support::Run> plain(const std::vector<Run>& runs) {
  std::vector<support::Run> result;
  for (const Run& run : runs) {
    support::Run& one = result.emplace_back();
    one.settings.seed = run.settings.seed;
    for (const Point& point : run.curve) {
      one.curve.push_back({point.epoch, point.evaluations, point.seconds, point.strict.overall});
    }
  }
  return result;
}

inline support::Range range_of(const std::vector<Run>& runs, double (*of)(const Run&)) {
  std::vector<double> values;
  for (const Run& run : runs) values.push_back(of(run));
  return support::Range(values);
}
/// Mean of the last three evaluations.
inline double last_of(const Run& run) {
  const std::size_t count = std::min<std::size_t>(run.curve.size(), 3);
  double sum = 0;
  for (std::size_t i = run.curve.size() - count; i < run.curve.size(); ++i) {
    sum += run.curve[i].strict.overall;
  }
  return sum / double(count);
}
inline double diversity_of(const Run& run) { return run.diversity; }

/// A number of a run at a cost, between two evaluations by linear interpolation; the last from
/// there on.
template <class Value>
double value_at(const Run& run, double cost, double Point::*axis, Value&& value) {
  const auto after = std::find_if(run.curve.begin(), run.curve.end(),
                                  [&](const Point& point) { return point.*axis > cost; });
  if (after == run.curve.end()) return value(run.curve.back());
  if (after == run.curve.begin()) return value(*after);
  const Point& before = *(after - 1);
  const double share = (cost - before.*axis) / ((*after).*axis - before.*axis);
  return std::lerp(value(before), value(*after), share);
}

/// Median and range over runs of a number against a cost, up to @p limit.
template <class Value>
svg::Series curve_of(const Entry& entry, std::size_t colour, double Point::*axis, double limit,
                     Value&& value) {
  svg::Series series{entry.name, colour, {}, {}};
  double end = 0;
  for (const Run& run : entry.runs) end = std::max(end, run.curve.back().*axis);
  end = std::min(end, limit);
  constexpr int points = 80;
  for (int i = 0; i <= points && !entry.runs.empty(); ++i) {
    std::vector<double> values;
    for (const Run& run : entry.runs) {
      values.push_back(value_at(run, end * i / points, axis, value));
    }
    series.x.push_back(end * i / points);
    series.y.push_back(*support::quantile(values, 0.5));
    series.low.push_back(*support::quantile(values, 0));
    series.high.push_back(*support::quantile(values, 1));
  }
  return series;
}

inline double overall_of(const Point& point) { return point.strict.overall; }

inline Json to_json(const std::vector<Entry>& entries) {
  Json list = Json::array();
  for (const Entry& entry : entries) {
    Json runs = Json::array();
    for (const Run& run : entry.runs) runs.push_back(to_json(run));
    list.push_back({{"name", entry.name}, {"runs", std::move(runs)}});
  }
  return list;
}

/// Writes NAME.html and summary.json, and says on page and screen if not all runs are in them.
inline void write_report(const Plan& plan, const std::string& name, const std::string& title,
                         const std::string& body, const Json& summary) {
  const std::string remark =
      cf::StopOnInterrupt::interrupted() ? "Stopped early: this is what was finished." : "";
  std::cout << remark << "\n";
  support::write_and_say(plan.output / "summary.json", summary.dump(1) + "\n");
  support::write_and_say(
      plan.output / (name + ".html"),
      html::page(title, html::element("h1", title) + html::paragraph(remark) + body));
}

}  // namespace scenes_example
