#pragma once

#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "experiment.hpp"

/// Methods against each other: same base, prompts, samples an epoch and sampling steps.
namespace scenes_example {

inline constexpr double levels[] = {0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98};

//! [grids]
/// The declared grid of NFT: learning rate and beta, all else as in our settings.
inline std::vector<Entry> nft_grid() {
  std::vector<Entry> grid;
  for (const double rate : {1e-3, 2e-3}) {
    for (const double beta : {0.5, 1.0}) {
      Settings settings = our_settings(Method::nft);
      settings.learning_rate = rate;
      settings.beta = beta;
      settings.epochs = 16;
      grid.push_back(
          {"NFT, rate " + support::scientific(rate) + ", beta " + support::scientific(beta),
           settings});
    }
  }
  return grid;
}

/// The declared grid of FlowGRPO: learning rate and clip range, all else as in our settings.
inline std::vector<Entry> grpo_grid() {
  std::vector<Entry> grid;
  for (const double rate : {1e-3, 2e-3}) {
    for (const double clip : {1e-4, 1e-3}) {
      Settings settings = our_settings(Method::flow_grpo);
      settings.learning_rate = rate;
      settings.clip_range = clip;
      settings.epochs = 24;
      grid.push_back(
          {"FlowGRPO, rate " + support::scientific(rate) + ", clip " + support::scientific(clip),
           settings});
    }
  }
  return grid;
}
//! [grids]

/// The best of a grid: fewest evaluations to 0.95, then the highest score at the end.
inline Settings best_of_grid(const std::vector<Entry>& grid) {
  const auto merit = [](const Entry& entry) {
    const double cost =
        support::reached(plain(entry.runs), 0.95, &support::Point::evaluations).median();
    return std::pair(cost, -range_of(entry.runs, last_of).median);
  };
  return std::min_element(grid.begin(), grid.end(),
                          [&](const Entry& a, const Entry& b) { return merit(a) < merit(b); })
      ->settings;
}

/// All that is compared, for settings that were found on another seed.
inline std::vector<Entry> entries_of(const Settings& nft, const Settings& grpo) {
  const auto with = [](Settings settings, Method method, std::int64_t epochs) {
    settings.method = method;
    settings.epochs = epochs;
    return settings;
  };
  // The published epochs are that much larger.
  const auto published = [&](Method method, std::int64_t epochs) {
    Settings settings = with(published_settings(method), method, epochs);
    settings.evaluate_every = 1;
    return settings;
  };
  return {{"NFT", with(nft, Method::nft, 40)},
          {"FlowGRPO", with(grpo, Method::flow_grpo, 40)},
          {"NFT, published settings", published(Method::nft, 14)},
          {"FlowGRPO, published settings", published(Method::flow_grpo, 6)},
          {"FlowGRPO with guidance, published settings", published(Method::flow_grpo_guided, 4)},
          {"NFT without negatives", with(nft, Method::nft_positive, 20)},
          {"NFT, three rewards", with(nft, Method::nft_multi, 20)}};
}

inline support::Table table_of(const std::vector<Entry>& entries) {
  support::Table table({"method", "end", "best", "evaluations to 0.80", "to 0.95", "to 0.98",
                        "seconds to 0.95", "distinct scenes"});
  for (const Entry& entry : entries) {
    const auto to = [&](double level, double support::Point::*cost) {
      return support::reached(plain(entry.runs), level, cost).text();
    };
    table.add({entry.name, range_of(entry.runs, last_of).text(3),
               range_of(entry.runs, best_of).text(3), to(0.8, &support::Point::evaluations),
               to(0.95, &support::Point::evaluations), to(0.98, &support::Point::evaluations),
               to(0.95, &support::Point::seconds), range_of(entry.runs, diversity_of).text(2)});
  }
  return table;
}

/// Evaluations of several methods to several levels, and how many times the first one's.
inline support::Table level_table(const std::vector<Entry>& entries) {
  std::vector<std::string> header{"strict score"};
  for (const Entry& entry : entries) {
    header.push_back(entry.name);
    if (&entry != &entries.front()) header.push_back("times " + entries.front().name + "'s");
  }
  support::Table table(std::move(header));
  for (const double level : levels) {
    std::vector<std::string> row{support::fixed(level, 2)};
    double first = 0;
    for (const Entry& entry : entries) {
      const support::Reached reached =
          support::reached(plain(entry.runs), level, &support::Point::evaluations);
      row.push_back(reached.text());
      if (&entry == &entries.front()) {
        first = reached.median();
      } else {
        const double ratio = reached.median() / first;
        row.push_back(std::isfinite(ratio) && std::isfinite(first) && first > 0
                          ? support::fixed(ratio, 1)
                          : "–");
      }
    }
    table.add(std::move(row));
  }
  return table;
}

/// The overall score and that of each category, against evaluations, epochs and seconds.
inline std::string plots_of(const std::vector<Entry>& entries) {
  double limit = 0;
  for (const Run& run : entries[1].runs) limit = std::max(limit, run.curve.back().evaluations);
  const auto plot = [&](const std::string& title, const std::string& label, double Point::*axis,
                        double end, auto&& value) {
    std::vector<svg::Series> series;
    for (const Entry& entry : entries) {
      series.push_back(curve_of(entry, series.size(), axis, end, value));
    }
    return html::element(
        "figure", html::element("figcaption", html::escaped(title)) +
                      svg::line_plot({label, 0, end}, {"strict score", 0, 1}, series, 460, 320)
                          .inline_text());
  };
  const auto most = [&](double Point::*axis) {
    double end = 0;
    for (const Entry& entry : entries) {
      for (const Run& run : entry.runs) end = std::max(end, run.curve.back().*axis);
    }
    return end;
  };
  const std::pair<const char*, double Point::*> costs[] = {{"evaluations", &Point::evaluations},
                                                           {"epochs", &Point::epoch},
                                                           {"seconds", &Point::seconds}};
  std::string all;
  for (const auto& [label, axis] : costs) {
    const double end = axis == &Point::evaluations ? limit : most(axis);
    all += plot("overall", label, axis, end, overall_of);
    for (const scenes::Category category : scenes::categories) {
      all += plot(scenes::name_of(category), label, axis, end, [&](const Point& point) {
        return point.strict.by_category[std::size_t(category)];
      });
    }
  }
  return html::element("div", all, "class=\"grid\"");
}

/// Tunes on a seed of its own, compares, and writes summary.json, a report and pictures.
inline int compare(const SceneFlow& base, const Plan& plan) {
  const auto pointers = [](std::vector<Entry>& entries) {
    std::vector<Entry*> all;
    for (Entry& entry : entries) all.push_back(&entry);
    return all;
  };
  std::vector<Entry> nft = nft_grid(), grpo = grpo_grid();
  std::vector<Entry*> tuning = pointers(nft);
  for (Entry* entry : pointers(grpo)) tuning.push_back(entry);
  if (plan.quick) {
    for (Entry* entry : tuning) shorten(entry->settings);
  }
  run_all(tuning, {101}, base, plan);
  std::vector<Entry> entries = entries_of(best_of_grid(nft), best_of_grid(grpo));
  if (plan.quick) {
    for (Entry& entry : entries) shorten(entry.settings);
  }
  run_all(pointers(entries), seeds_to(plan.seeds), base, plan);
  if (!support::is_first(plan.ranks)) return 0;

  nft.insert(nft.end(), grpo.begin(), grpo.end());
  const support::Table table = table_of(entries), tuned = table_of(nft);
  const support::Table by_level = level_table({entries[0], entries[1], entries[2], entries[3]});
  std::cout << table.text() << "\nevaluations to a strict score\n"
            << by_level.text() << "\ntuning, one seed\n"
            << tuned.text();
  const std::int64_t count = entries[0].settings.evaluated;
  const Json summary{{"base_unguided", to_json(evaluated(base, cf::Alone{}, count))},
                     {"base_guided", to_json(evaluated(guided(base), cf::Alone{}, count))},
                     {"base_diversity", diversity(base, count)},
                     {"complete", !cf::StopOnInterrupt::interrupted()},
                     {"tuning", to_json(nft)},
                     {"methods", to_json(entries)}};
  write_report(plan, "compare", "NFT and FlowGRPO on scenes",
               html::table(table) + plots_of(entries) +
                   html::element("h2", "Evaluations to a strict score") + html::table(by_level) +
                   html::element("h2", "Tuning, one seed") + html::table(tuned) +
                   html::paragraph("Pictures of the first run of NFT, before and after, "
                                   "are in pictures.html."),
               summary);
  if (!entries[0].runs.empty()) write_pictures(plan.output, base, entries[0].runs[0].model);
  return 0;
}

}  // namespace scenes_example
