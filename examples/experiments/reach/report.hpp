#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "experiment.hpp"
#include "support/html.hpp"
#include "support/statistics.hpp"
#include "support/svg.hpp"
#include "support/table.hpp"

/// Tables, pictures, a page and a summary of what was found.
namespace reaching {

namespace html = support::html;
namespace svg = support::svg;
using Json = nlohmann::ordered_json;

/// Held-out success rates at which speed is compared.
inline constexpr double success_levels[] = {0.4, 0.5, 0.6, 0.7, 0.8};

inline std::string percent(double share) { return fixed(100 * share, 1) + " %"; }

/// Medians over runs of what came of the chunks at the end.
inline Shares median_after(const Group& group) {
  const auto median = [&](double Shares::*share) {
    std::vector<double> values;
    for (const Result& result : group.results) values.push_back(result.after.*share);
    return quantile(values, 0.5).value_or(0);
  };
  return {median(&Shares::reaches), median(&Shares::collides), median(&Shares::exceeds),
          median(&Shares::misses)};
}

/// What came of chunks, before and after.
inline Table outcome_table(const Plan& plan, const std::vector<ArmResult>& arms) {
  Table table({"arm", "policy", "learning rate", "success", "least – most", "collides",
               "over a limit", "misses"},
              2);
  for (const ArmResult& arm : arms) {
    const std::string name = std::to_string(arm.problem.world.joints) + " joints";
    const auto add = [&](const std::string& policy, const std::string& rate, const Shares& shares,
                         const std::string& range) {
      table.add({name, policy, rate, percent(shares.reaches), range, percent(shares.collides),
                 percent(shares.exceeds), percent(shares.misses)});
    };
    table.add_rule();
    add("demonstrations", "", arm.demonstrated, "");
    add("base", "", arm.before, "");
    for (std::size_t m = 0; m < arm.groups.size(); ++m) {
      const Group& group = arm.groups[m];
      if (group.results.empty()) continue;
      std::vector<double> ends;
      for (const Result& result : group.results) ends.push_back(result.after.reaches);
      const Range range(ends);
      add(plan.methods[m].name, scientific(group.rate), median_after(group),
          percent(range.least) + " – " + percent(range.most));
    }
  }
  return table;
}

/// A row of the table of speeds: what @p of says of each level that the base is below.
template <class F>
std::vector<std::string> speed_row(const ArmResult& arm, const std::string& name, F&& of) {
  std::vector<std::string> row{std::to_string(arm.problem.world.joints) + " joints", name};
  for (const double level : success_levels) {
    row.push_back(arm.before.reaches < level ? of(level) : "at the start");
  }
  return row;
}

/// Model evaluations to each level of success.
inline Table speed_table(const Plan& plan, const std::vector<ArmResult>& arms) {
  std::vector<std::string> header{"model evaluations to", "method"};
  for (const double level : success_levels) header.push_back(fixed(100 * level, 0) + " %");
  Table table(header, 2);
  for (const ArmResult& arm : arms) {
    table.add_rule();
    for (std::size_t m = 0; m < arm.groups.size(); ++m) {
      table.add(speed_row(arm, plan.methods[m].name, [&](double level) {
        return evaluations_to(arm.groups[m].runs(), level).text();
      }));
    }
    if (arm.groups.size() != 2) continue;
    table.add(speed_row(arm, "FlowGRPO / NFT", [&](double level) {
      const auto ratio =
          ratio_of(arm.groups[1].runs(), arm.groups[0].runs(), level, &Point::evaluations);
      return ratio ? ratio->text() : "-";
    }));
  }
  return table;
}

/// What the tuning runs gave for every candidate.
inline Table tuning_table(const Plan& plan, const std::vector<ArmResult>& arms) {
  std::vector<std::string> header{"arm", "method"};
  for (const double rate : plan.rates) header.push_back(scientific(rate));
  Table table(header, 2);
  for (const ArmResult& arm : arms) {
    table.add_rule();
    for (std::size_t m = 0; m < arm.groups.size(); ++m) {
      std::vector<std::string> row{std::to_string(arm.problem.world.joints) + " joints",
                                   plan.methods[m].name};
      for (const Run& run : arm.groups[m].tuning) {
        row.push_back(fixed(merit_of(run), 3) + ", ends at " + fixed(final_reward(run), 3));
      }
      table.add(std::move(row));
    }
  }
  return table;
}

/// A square of the plane about the arm's base, and the way from it to pixels.
struct Panel {
  svg::Point corner;
  double side;

  svg::Point at(reach::Point point) const {
    constexpr double limit = 1.12;
    return {corner.x + (point.x / limit + 1) / 2 * side,
            corner.y + (1 - point.y / limit) / 2 * side};
  }
  double length(double size) const { return std::abs(at({size, 0}).x - at({0, 0}).x); }
};

/// The poses of one chunk.
struct Motion {
  std::vector<std::vector<reach::Point>> poses;
  reach::Outcome outcome;

  std::vector<svg::Point> way_of_hand(const Panel& panel) const {
    std::vector<svg::Point> way;
    for (const auto& pose : poses) way.push_back(panel.at(pose.back()));
    return way;
  }
};

inline Motion motion_of(const reach::World& world, const reach::Scene& scene,
                        const Tensor& actions) {
  Motion motion;
  const Tensor chunk = actions.contiguous();
  motion.outcome = reach::simulate(world, scene, contraflow::data_of<const float>(chunk),
                                   [&](const auto& places) { motion.poses.push_back(places); });
  return motion;
}

/// One scene: the ways of the hand of all chunks, and the poses of the first.
inline void draw(svg::Canvas& canvas, const Panel& panel, const reach::World& world,
                 const reach::Scene& scene, const std::vector<Motion>& motions) {
  const auto colour = [](const Motion& motion) {
    return motion.outcome.reaches ? "var(--series-3)" : "var(--series-1)";
  };
  canvas.rectangle(panel.corner, panel.side, panel.side, "none", "stroke=\"var(--line)\"");
  for (const reach::Disc& disc : scene.obstacles) {
    canvas.dots({panel.at(disc.centre)}, 2 * panel.length(disc.radius), "var(--muted)",
                "stroke-opacity=\"0.45\"");
  }
  const std::size_t last = motions.front().poses.size() - 1;
  for (const std::size_t step : {std::size_t{0}, last / 2, last}) {
    std::vector<svg::Point> arm;
    for (const reach::Point place : motions.front().poses[step]) arm.push_back(panel.at(place));
    canvas.polyline(arm, "var(--ink)",
                    "stroke-width=\"1.6\" stroke-opacity=\"" +
                        fixed(0.25 + 0.55 * double(step) / double(last), 2) + "\"");
    canvas.dots(arm, 3.4, "var(--ink)", "stroke-opacity=\"0.5\"");
  }
  for (const Motion& motion : motions) {
    canvas.polyline(motion.way_of_hand(panel), colour(motion),
                    "stroke-width=\"1.3\" stroke-opacity=\"0.75\"");
    canvas.dots({panel.at(motion.poses.back().back())}, 4, colour(motion));
  }
  canvas.dots({panel.at(scene.goal)}, 2 * panel.length(world.tolerance), "var(--series-0)",
              "stroke-opacity=\"0.22\"");
}

/// A row of pictures.
struct Strip {
  std::string name;
  Tensor chunks;  ///< chunk i is of the scene i % Common::pictured
};

/// The first held-out scenes, a row for each policy.
inline svg::Canvas picture(const Problem& problem, const std::vector<Strip>& strips) {
  constexpr double side = 150, gap = 8, head = 24;
  constexpr auto scenes = Common::pictured;
  svg::Canvas canvas(double(scenes) * (side + gap) + gap,
                     double(strips.size()) * (side + head) + gap);
  const Tensor rows = problem.held_out.contiguous();
  double y = 0;
  for (const Strip& strip : strips) {
    int reached = 0;
    for (std::int64_t i = 0; i < scenes; ++i) {
      const auto* row = contraflow::data_of<const float>(rows) + i * problem.world.scene_size();
      const reach::Scene scene = reach::Scene::of(problem.world, row);
      std::vector<Motion> motions;
      for (std::int64_t k = i; k < strip.chunks.size(0); k += scenes) {
        motions.push_back(motion_of(problem.world, scene, strip.chunks[k]));
        reached += motions.back().outcome.reaches ? 1 : 0;
      }
      draw(canvas, {{gap + double(i) * (side + gap), y + head}, side}, problem.world, scene,
           motions);
    }
    canvas.text({gap, y + 16},
                strip.name + ": " + std::to_string(reached) + " of " +
                    std::to_string(strip.chunks.size(0)) + " chunks reach the goal",
                "start", "fill=\"var(--ink)\"");
    y += side + head;
  }
  return canvas;
}

inline svg::Canvas picture(const Plan& plan, const ArmResult& arm) {
  std::vector<Strip> strips;
  for (std::size_t m = 0; m < arm.groups.size(); ++m) {
    if (arm.groups[m].results.empty()) continue;
    const Result& first = arm.groups[m].results.front();
    if (strips.empty()) strips.push_back({"before: the base model", first.pictured_before});
    strips.push_back({"after: " + plan.methods[m].name, first.pictured_after});
  }
  return picture(arm.problem, strips);
}

/// Median and range over seeds of the success on held-out scenes.
inline svg::Canvas curves(const Plan& plan, const ArmResult& arm) {
  std::vector<svg::Series> all;
  double end = 1;
  for (std::size_t m = 0; m < arm.groups.size(); ++m) {
    svg::Series series{plan.methods[m].name, m, {}, {}};
    const std::vector<Run> runs = arm.groups[m].runs();
    for (std::size_t i = 0; !runs.empty() && i < runs.front().curve.size(); ++i) {
      std::vector<double> rewards, costs;
      for (const Run& run : runs) {
        rewards.push_back(run.curve[i].reward);
        costs.push_back(run.curve[i].evaluations);
      }
      const Range range(rewards);
      series.x.push_back(*quantile(costs, 0.5));
      series.y.push_back(range.median);
      series.low.push_back(range.least);
      series.high.push_back(range.most);
      end = std::max(end, series.x.back());
    }
    all.push_back(std::move(series));
  }
  return svg::line_plot(
      {"model evaluations, " + std::to_string(arm.problem.world.joints) + " joints", 0, end},
      {"success on held-out scenes", 0, 1}, all, 420, 260);
}

inline std::string report(const Plan& plan, const std::vector<ArmResult>& arms) {
  std::string body = html::element("h1", "A planar arm among obstacles");
  body += html::element("p",
                        "A flow over chunks of joint velocities, pre-trained on imperfect "
                        "demonstrations and improved by a reward of 0 or 1 from a simulator. "
                        "Averaged weights, held-out scenes, fixed noise, ten first-order steps. "
                        "Medians over seeds with their range.",
                        "class=\"muted\"");
  std::string plots;
  for (const ArmResult& arm : arms) {
    plots += html::element("figure", curves(plan, arm).inline_text());
  }
  body += html::element("div", plots, "class=\"grid\"");
  body += html::table(outcome_table(plan, arms)) + html::table(speed_table(plan, arms));
  for (const ArmResult& arm : arms) {
    body += html::element("h2", std::to_string(arm.problem.world.joints) + " joints");
    body += html::element("figure", picture(plan, arm).inline_text());
  }
  body += html::element("h2", "Settings");
  for (const Method& method : plan.methods) {
    body += html::paragraph(method.name + ": " + method.settings + ".");
  }
  if (plan.rates.size() > 1) {
    body += html::paragraph(
        "Mean success over a tuning run, on a seed that is not reported, for each learning rate:");
    body += html::table(tuning_table(plan, arms));
  }
  return html::page("A planar arm among obstacles", body);
}

inline Json to_json(const Shares& shares) {
  return {{"reaches", shares.reaches},
          {"collides", shares.collides},
          {"exceeds", shares.exceeds},
          {"misses", shares.misses}};
}

inline Json to_json(const Run& run) {
  Json curve = Json::array();
  for (const Point& p : run.curve) curve.push_back({p.epoch, p.evaluations, p.seconds, p.reward});
  return {{"seed", run.settings.seed},
          {"learning_rate", run.settings.learning_rate},
          {"log", run.settings.log.filename().string()},
          {"curve", std::move(curve)}};
}

inline Json to_json(const Group& group) {
  Json runs = Json::array(), tuning = Json::array(), after = Json::array();
  for (const Result& result : group.results) {
    runs.push_back(to_json(result.run));
    after.push_back(to_json(result.after));
  }
  for (const Run& run : group.tuning) tuning.push_back(to_json(run));
  return {{"learning_rate", group.rate},
          {"after", std::move(after)},
          {"runs", std::move(runs)},
          {"tuning", std::move(tuning)}};
}

inline Json summary(const Plan& plan, const std::vector<ArmResult>& arms) {
  Json json;
  json["curve"] = {"epoch", "evaluations", "seconds", "success"};
  for (const ArmResult& arm : arms) {
    Json& own = json["arms"][std::to_string(arm.problem.world.joints)];
    own["demonstrations"] = to_json(arm.demonstrated);
    own["base"] = to_json(arm.before);
    for (std::size_t m = 0; m < arm.groups.size(); ++m) {
      own["methods"][plan.methods[m].name] = to_json(arm.groups[m]);
    }
  }
  return json;
}

}  // namespace reaching
