#pragma once

#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "experiment.hpp"

/// What makes NFT work: each choice changed alone.
namespace scenes_example {

/// One choice with its alternatives; the first is the recipe that all others share.
struct Ablation {
  std::string name;
  std::vector<Entry> variants;
};

//! [ablations]
inline std::vector<Ablation> ablations() {
  Settings recipe = our_settings(Method::nft);
  recipe.prompts = 12;  // half of the recipe's, for time
  recipe.epochs = 20;
  recipe.evaluate_every = 4;
  const auto changed = [&](const std::string& name, auto&& change) {
    Settings settings = recipe;
    change(settings);
    return Entry{name, settings};
  };
  const auto old = [&](const std::string& name, const cf::Schedule& decay) {
    return changed(name, [&](Settings& s) { s.old_decay = decay; });
  };
  const auto beta = [&](double value) {
    return changed("beta " + support::scientific(value), [&](Settings& s) { s.beta = value; });
  };
  const auto weighted = [&](const std::string& name, Weighting weighting) {
    return changed(name, [&](Settings& s) { s.weighting = weighting; });
  };
  const auto collected = [&](const std::string& name, Collecting collecting) {
    return changed(name, [&](Settings& s) { s.collecting = collecting; });
  };
  return {{"recipe", {{"recipe", recipe}}},
          {"negative branch",
           {changed("without", [](Settings& s) { s.method = Method::nft_positive; })}},
          {"old policy",
           {old("decay 0", cf::Constant{0}), old("decay 0.9", cf::Constant{0.9}),
            old("published ramp", cf::Ramp{.rate = 0.001, .max = 0.5})}},
          {"beta", {beta(0.01), beta(0.1), beta(1), beta(10)}},
          {"weighting",
           {weighted("w(t) = 1", Weighting::one), weighted("w(t) = t", Weighting::t),
            weighted("w(t) = 1 - t", Weighting::one_minus_t)}},
          {"collection",
           {collected("ODE, order 1", Collecting::order_1), collected("SDE", Collecting::sde)}},
          {"our changes undone",
           {changed("all groups", [](Settings& s) { s.informative_only = false; }),
            changed("advantages over the global std, clip 5",
                    [](Settings& s) {
                      s.spread = cf::Spread::global;
                      s.advantage_clip = 5;
                    }),
            changed("KL 1e-4", [](Settings& s) { s.kl = 1e-4; }),
            changed("constant learning rate", [](Settings& s) { s.decay_steps = 0; }),
            changed("shared noise", [](Settings& s) { s.shared_noise = true; })}}};
}
//! [ablations]

/// Collapsed: ended far below its best, or below what the base can do.
inline std::string verdict_on(const Entry& entry) {
  if (entry.runs.empty()) return "";
  const double end = range_of(entry.runs, last_of).median;
  if (end < 0.5 * range_of(entry.runs, best_of).median) return "collapsed";
  if (end < 0.4) return "barely learns";
  return "";
}

inline support::Table table_of(const std::vector<Ablation>& ablations) {
  support::Table table(
      {"choice", "variant", "end", "best", "evaluations to 0.80", "to 0.95", "distinct scenes", ""},
      2);
  for (const Ablation& ablation : ablations) {
    table.add_rule();
    for (const Entry& entry : ablation.variants) {
      const auto to = [&](double level) {
        return support::reached(plain(entry.runs), level, &support::Point::evaluations).text();
      };
      table.add({ablation.name, entry.name, range_of(entry.runs, last_of).text(3),
                 range_of(entry.runs, best_of).text(3), to(0.8), to(0.95),
                 range_of(entry.runs, diversity_of).text(2), verdict_on(entry)});
    }
  }
  return table;
}

/// Runs every variant, and writes summary.json and a report with a plot for each choice.
inline int ablate(const SceneFlow& base, const Plan& plan) {
  std::vector<Ablation> all = ablations();
  std::vector<Entry*> entries;
  for (Ablation& ablation : all) {
    for (Entry& entry : ablation.variants) {
      if (plan.quick) shorten(entry.settings);
      entries.push_back(&entry);
    }
  }
  run_all(entries, seeds_to(plan.seeds), base, plan);
  if (!support::is_first(plan.ranks)) return 0;

  const support::Table table = table_of(all);
  std::cout << table.text();
  Json summary;
  std::string plots;
  for (const Ablation& ablation : all) {
    summary[ablation.name] = to_json(ablation.variants);
    std::vector<svg::Series> series;
    const Entry& recipe = all.front().variants.front();
    const double end = double(recipe.settings.epochs);
    series.push_back(curve_of(recipe, 0, &Point::epoch, end, overall_of));
    if (&ablation == &all.front()) continue;
    for (const Entry& entry : ablation.variants) {
      series.push_back(curve_of(entry, series.size(), &Point::epoch, end, overall_of));
    }
    plots += html::element(
        "figure", html::element("figcaption", html::escaped(ablation.name)) +
                      svg::line_plot({"epochs", 0, end}, {"strict score", 0, 1}, series, 460, 300)
                          .inline_text());
  }
  write_report(plan, "ablations", "What makes NFT work on scenes",
               html::table(table) + html::element("div", plots, "class=\"grid\""), summary);
  return 0;
}

}  // namespace scenes_example
