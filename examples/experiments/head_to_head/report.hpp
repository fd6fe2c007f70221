#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "experiment.hpp"
#include "statistics.hpp"
#include "summary.hpp"
#include "support/html.hpp"
#include "support/svg.hpp"

/// The report: one page with everything that was found.
namespace head_to_head {

namespace html = support::html;
namespace svg = support::svg;

/// Whether any run of a task was finished: not where the program was stopped before.
inline bool has_runs(const TaskResult& result) {
  return std::any_of(result.groups.begin(), result.groups.end(),
                     [](const Group& group) { return !group.runs.empty(); });
}

/// The reward of a run when it had spent @p cost; its last one from there on.
inline double reward_at(const Run& run, double cost, double Point::*axis) {
  const auto after = std::find_if(run.curve.begin(), run.curve.end(),
                                  [&](const Point& point) { return point.*axis > cost; });
  if (after == run.curve.end()) return run.curve.back().reward;
  const auto before = after - 1;
  const double share = (cost - (*before).*axis) / ((*after).*axis - (*before).*axis);
  return std::lerp(before->reward, after->reward, share);
}

/// The most any run of a group spent.
inline double spent(const Group& group, double Point::*axis) {
  double most = 0;
  for (const Run& run : group.runs) most = std::max(most, end_of(run, axis));
  return most;
}

/// Median and range of the reward over runs.
inline svg::Series reward_curve(const Method& method, std::size_t colour, const Group& group,
                                double Point::*axis, double limit) {
  svg::Series series{method.name, colour, {}, {}};
  constexpr int points = 80;
  const double end = std::min(limit, spent(group, axis));
  for (int i = 0; i <= points && !group.runs.empty(); ++i) {
    const double cost = end * i / points;
    std::vector<double> rewards;
    for (const Run& run : group.runs) rewards.push_back(reward_at(run, cost, axis));
    series.x.push_back(cost);
    series.y.push_back(*quantile(rewards, 0.5));
    series.low.push_back(*quantile(rewards, 0));
    series.high.push_back(*quantile(rewards, 1));
  }
  return series;
}

/// Where the curves of a task are cut off: behind the last run of the two methods that got to 95 %.
inline double end_of_interest(const TaskResult& result, double Point::*axis) {
  double needed = 0, all = 0;
  for (const std::size_t m : {Plan::nft, Plan::flow_grpo}) {
    all = std::max(all, spent(result.groups[m], axis));
    for (const double cost : reached(result.groups[m].runs, 0.98, axis).costs) {
      if (std::isfinite(cost)) needed = std::max(needed, cost);
    }
  }
  return needed > 0 ? std::min(all, 1.5 * needed) : all;
}

inline std::string reward_plots(const Plan& plan, const TaskResult& result) {
  std::string plots;
  for (const Cost& cost : costs) {
    const double limit = end_of_interest(result, cost.of);
    std::vector<svg::Series> series;
    for (std::size_t m = 0; m < plan.methods.size(); ++m) {
      series.push_back(reward_curve(plan.methods[m], m, result.groups[m], cost.of, limit));
    }
    const svg::Axis x{cost.label, 0, limit};
    plots += html::element("figure", svg::line_plot(x, {"reward", 0, 1}, series).inline_text());
  }
  return html::element("div", plots, "class=\"grid\"");
}

/// Samples in the plane of the task's pictures, rewarded ones in a colour for each mode.
inline std::string picture(const cf::toy::Task& task, const cf::Tensor& samples,
                           const std::string& caption) {
  constexpr std::int64_t most = 500;
  const cf::Tensor shown = samples.narrow(0, 0, std::min(most, samples.size(0)));
  const cf::Tensor places = at::matmul(shown, task.axes).contiguous();
  const cf::Tensor modes = task.mode_of(shown).contiguous();
  std::vector<svg::Cloud> clouds{{"var(--muted)", {}}};
  for (std::size_t i = 0; i < task.rewarded.size(); ++i) {
    clouds.push_back({svg::colour_of(i == 0 ? 3 : i + 3), {}});
  }
  const auto* xy = cf::data_of<const float>(places);
  const auto* mode = cf::data_of<const std::int64_t>(modes);
  for (std::int64_t i = 0; i < shown.size(0); ++i) {
    clouds[std::size_t(mode[i] + 1)].points.push_back({xy[2 * i], xy[2 * i + 1]});
  }
  return html::element("figure", svg::scatter(clouds, task.limit).inline_text() +
                                     html::element("figcaption", html::escaped(caption)));
}

inline std::string pictures(const Plan& plan, std::size_t k, const TaskResult& result) {
  const cf::toy::Task& task = plan.tasks[k].task;
  std::string all;
  all += picture(task, result.data, "data");
  all += picture(task, result.base_samples,
                 "before: the base model, reward " +
                     fixed(task(result.base_samples).mean().item<double>(), 2));
  for (std::size_t m = 0; m < plan.methods.size(); ++m) {
    const Group& group = result.groups[m];
    if (group.runs.empty()) continue;
    const Run& run = group.runs.front();
    all +=
        picture(task, run.samples,
                "after: " + plan.methods[m].name + ", reward " + fixed(run.curve.back().reward, 2));
  }
  return html::element("div", all, "class=\"grid five\"");
}

/// One bar for each level, FlowGRPO over NFT.
inline std::string ratio_bars(const Plan& plan, const std::vector<TaskResult>& results,
                              const Cost& cost) {
  std::vector<svg::BarGroup> groups;
  for (std::size_t k = 0; k < results.size(); ++k) {
    if (!has_runs(results[k])) continue;
    svg::BarGroup group{plan.tasks[k].task.name, {}};
    for (const double level : levels) {
      const auto ratio = ratio_of(results[k].groups[Plan::flow_grpo].runs,
                                  results[k].groups[Plan::nft].runs, level, cost.of);
      std::optional<svg::Bar> bar;
      if (ratio) {
        bar = svg::Bar{ratio->value, ratio->text() + "×", ratio->low, ratio->high,
                       ratio->is_least || ratio->is_most};
      }
      group.bars.push_back(std::move(bar));
    }
    groups.push_back(std::move(group));
  }
  const svg::Canvas canvas =
      svg::ratio_bars("FlowGRPO / NFT, " + std::string(cost.label) +
                          " to the reward  (right: NFT is ahead, left: FlowGRPO)",
                      {"90 %", "95 %", "98 %"}, groups, 4);
  return html::element("figure", canvas.inline_text());
}

/// The share of each rewarded mode at the end, for each seed.
inline Table diversity_table(const Plan& plan, const std::vector<TaskResult>& results) {
  std::vector<std::string> header{"task", "method"};
  for (std::uint64_t i = 1; i <= plan.seeds; ++i) header.push_back("run " + std::to_string(i));
  header.push_back("median, sorted");
  Table table(header, 2);
  for (std::size_t k = 0; k < results.size(); ++k) {
    table.add_rule();
    for (std::size_t m = 0; m < plan.methods.size(); ++m) {
      const std::vector<Run>& runs = results[k].groups[m].runs;
      std::vector<std::string> row{plan.tasks[k].task.name, plan.methods[m].name};
      for (const std::uint64_t seed : seeds(plan, k)) {
        const auto run = std::find_if(runs.begin(), runs.end(),
                                      [&](const Run& one) { return one.settings.seed == seed; });
        row.push_back(run == runs.end() ? "-" : percentages(run->shares));
      }
      row.push_back(shares_text(runs));
      table.add(std::move(row));
    }
  }
  return table;
}

/// "120k, 3 of 3".
inline std::string merit_text(const Merit& merit, std::size_t runs) {
  const std::string cost =
      std::isfinite(merit.cost) ? compact(merit.cost) : "reward " + fixed(merit.reward, 2);
  return cost + ", " + std::to_string(merit.kept) + " of " + std::to_string(runs);
}

/// What the tuning runs gave for every candidate.
inline Table tuning_table(const Plan& plan, const std::vector<TaskResult>& results) {
  std::vector<std::string> header{"task", "method"};
  for (const double rate : plan.rates) header.push_back(scientific(rate));
  header.push_back("chosen");
  Table table(header, 2);
  for (std::size_t k = 0; k < results.size(); ++k) {
    table.add_rule();
    for (std::size_t m = 0; m < plan.methods.size(); ++m) {
      const Group& group = results[k].groups[m];
      std::vector<std::string> row{plan.tasks[k].task.name, plan.methods[m].name};
      for (const std::vector<Run>& runs : group.tuning) {
        const Merit merit(runs);
        row.push_back(runs.empty() ? "-" : merit_text(merit, runs.size()));
      }
      row.resize(2 + plan.rates.size(), "-");
      row.push_back(group.rate ? scientific(*group.rate) : "-");
      table.add(std::move(row));
    }
  }
  return table;
}

inline Table settings_table(const Plan& plan) {
  std::vector<std::string> rates;
  for (const double rate : plan.rates) rates.push_back(scientific(rate));
  Table table({"setting", "value"}, 2);
  table.add(
      {"model", "MLP of three hidden layers of 128, the same base for all methods of a task"});
  table.add({"base", std::to_string(plan.pretrain_steps) + " steps of flow matching, " +
                         std::to_string(plan.pretrain_batch) + " samples each"});
  table.add({"an epoch", std::to_string(Common::prompts_per_epoch) + " groups of " +
                             std::to_string(Common::group_size) + " samples, " +
                             std::to_string(Common::sampling_steps) + " sampling steps, " +
                             std::to_string(Common::gradient_steps) + " gradient steps, " +
                             std::to_string(Common::times_per_sample) +
                             " times or transitions a sample"});
  for (const Method& method : plan.methods) table.add({method.name, method.settings});
  table.add({"optimiser", "AdamW, gradients clipped to the norm 1"});
  table.add({"learning rates tried", joined(rates, ", ") + ", for every method"});
  table.add({"evaluation", "averaged weights, " + std::to_string(Common::evaluation_samples) +
                               " samples of fixed noise, " +
                               std::to_string(Common::evaluation_steps) +
                               " first-order steps; not counted in evaluations and seconds"});
  table.add({"end of a run", "its last epoch, or " + std::to_string(Settled{}.evaluations) +
                                 " evaluations in a row of at least " + fixed(Settled{}.solved, 3) +
                                 " (solved) or at most " + fixed(Settled{}.dead, 2) + " (dead)"});
  for (const TaskPlan& task : plan.tasks) {
    table.add({task.task.name, std::to_string(task.epochs) + " epochs at most, evaluated every " +
                                   std::to_string(task.evaluate_every) + "; seeds from " +
                                   std::to_string(task.first_seed) + ", for tuning from " +
                                   std::to_string(task.first_seed + 50)});
  }
  table.add({"machine", std::to_string(std::thread::hardware_concurrency()) + " threads, " +
                            std::to_string(plan.threads) + " runs at a time, one thread each"});
  table.add({"contraflow", version_text()});
  return table;
}

/// "ring 2.46, checkerboard 1.27": FlowGRPO / NFT in evaluations, where one of them got there.
inline std::string ratios_text(const Plan& plan, const std::vector<TaskResult>& results,
                               double level) {
  std::vector<std::string> texts;
  for (std::size_t k = 0; k < results.size(); ++k) {
    const auto ratio = ratio_of(results[k].groups[Plan::flow_grpo].runs,
                                results[k].groups[Plan::nft].runs, level, &Point::evaluations);
    if (ratio) texts.push_back(plan.tasks[k].task.name + " " + ratio->text());
  }
  return joined(texts, ", ");
}

/// Median over tasks and runs of the largest share of a rewarded mode, in percent.
inline std::string largest_share(const std::vector<TaskResult>& results, std::size_t method) {
  std::vector<double> largest;
  for (const TaskResult& result : results) {
    for (const Run& run : result.groups[method].runs) {
      if (final_reward(run) >= 0.95) largest.push_back(*quantile(run.shares, 1));
    }
  }
  return largest.empty() ? "no" : fixed(100 * *quantile(largest, 0.5), 0);
}

/// How many of a method's runs ended at 95 % or more.
inline std::string good_runs(const std::vector<TaskResult>& results, std::size_t method) {
  std::size_t good = 0, all = 0;
  for (const TaskResult& result : results) {
    for (const Run& run : result.groups[method].runs) {
      ++all;
      good += final_reward(run) >= 0.95 ? 1 : 0;
    }
  }
  return std::to_string(good) + " of " + std::to_string(all);
}

/// What the figures say, in sentences.
inline std::string findings(const Plan& plan, const std::vector<TaskResult>& results) {
  std::string text;
  const auto say = [&](const std::string& sentence) { text += html::paragraph(sentence); };
  for (const double level : levels) {
    const std::string ratios = ratios_text(plan, results, level);
    if (ratios.empty()) continue;
    say("FlowGRPO / NFT, model evaluations to " + percent(level) + " %: " + ratios + ".");
  }
  say("Runs that ended at 95 % or more: NFT " + good_runs(results, Plan::nft) + ", FlowGRPO " +
      good_runs(results, Plan::flow_grpo) + ", NFT without its negative branch " +
      good_runs(results, Plan::no_negatives) + ".");
  say("The most frequent of the rewarded modes had, in the median of such runs, " +
      largest_share(results, Plan::nft) + " % of the rewarded samples for NFT, " +
      largest_share(results, Plan::flow_grpo) + " % for FlowGRPO and " +
      largest_share(results, Plan::no_negatives) + " % without the negative branch.");
  return text;
}

inline std::string introduction(const Plan& plan, const std::vector<TaskResult>& results) {
  std::string text = html::element("h1", "NFT and Flow-GRPO, head to head");
  if (!is_complete(plan, results)) {
    text += html::element("p",
                          "<strong>The program was stopped early: this is what was finished by "
                          "then.</strong>");
  }
  text += html::element(
      "p",
      "A small flow model learns data of eight (or fewer) modes; then reinforcement learning is to "
      "move it into the few that are rewarded. The maximum of the reward is 1. Medians over seeds "
      "with their range, least to most.",
      "class=\"muted\"");
  return text + findings(plan, results);
}

/// The report as a page.
inline std::string report(const Plan& plan, const std::vector<TaskResult>& results) {
  std::string body = introduction(plan, results);

  body += html::element("h2", "How many times as much FlowGRPO takes");
  std::string bars;
  for (const Cost& cost : costs) {
    if (cost.of != &Point::epoch) bars += ratio_bars(plan, results, cost);
  }
  body += bars;
  body += html::element("p",
                        "Ratios of medians; lines show the range over pairs of runs with the same "
                        "seed. Hollow bars are bounds: one side did not get there within its "
                        "epochs, and counts with what it had spent.",
                        "class=\"muted\"");
  body += html::table(ratio_table(plan, results));

  body += html::element("h2", "To 90, 95 and 98 % of the maximum");
  for (const Cost& cost : costs) body += html::table(level_table(plan, results, cost));
  body += html::element("p",
                        "An evaluation is the velocity of one sample, forward; backward counts two "
                        "more. Seconds are wall-clock seconds of training. Between two evaluations "
                        "of the policy the way is interpolated.",
                        "class=\"muted\"");
  body += html::element("h3", "At the end");
  body += html::table(end_table(plan, results));
  body += html::element("p",
                        "The reward is the mean of a run's last three evaluations. Shares are "
                        "sorted in each run before the median is taken.",
                        "class=\"muted\"");

  body += html::element("h2", "Reward");
  body += html::element("p",
                        "Median and range over seeds. A run that ended early counts with its last "
                        "reward from there on.",
                        "class=\"muted\"");
  for (std::size_t k = 0; k < results.size(); ++k) {
    if (!has_runs(results[k])) continue;
    body += html::element("h3", html::escaped(plan.tasks[k].task.name));
    body += reward_plots(plan, results[k]);
  }

  body += html::element("h2", "Samples before and after");
  body += html::element("p",
                        "Rewarded samples in colour, one for each rewarded mode; the first seed of "
                        "each method. Ladders are shown in their first two coordinates.",
                        "class=\"muted\"");
  for (std::size_t k = 0; k < results.size(); ++k) {
    if (!has_runs(results[k])) continue;
    body += html::element("h3", html::escaped(plan.tasks[k].task.name));
    body += pictures(plan, k, results[k]);
  }

  body += html::element("h2", "Diversity that is left");
  body += html::element("p",
                        "Share of each rewarded mode among the rewarded samples at the end of a "
                        "run, in percent. In the data they are equal.",
                        "class=\"muted\"");
  body += html::table(diversity_table(plan, results));

  body += html::element("h2", "Settings");
  body += html::element("div", html::table(settings_table(plan)), "class=\"wrap\"");
  body += html::element("h3", "The learning rates");
  body += html::element("p",
                        "Evaluations to 95 % in the tuning runs (or the reward at the end where it "
                        "was not reached), and how many of them got there and did not fall below "
                        "90 % again. The candidate with most of these, then with fewest "
                        "evaluations, was used for the seeds above, which are others.",
                        "class=\"muted\"");
  body += html::table(tuning_table(plan, results));
  return html::page("NFT and Flow-GRPO, head to head", body);
}

}  // namespace head_to_head
