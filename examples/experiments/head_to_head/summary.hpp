#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "experiment.hpp"
#include "statistics.hpp"
#include "support/table.hpp"

namespace head_to_head {

using Json = nlohmann::ordered_json;

/// What a run spends.
struct Cost {
  const char* name;   ///< in the summary
  const char* label;  ///< for a person
  double Point::*of;
};
inline constexpr Cost costs[] = {{"epochs", "epochs", &Point::epoch},
                                 {"evaluations", "model evaluations", &Point::evaluations},
                                 {"seconds", "seconds", &Point::seconds}};

inline Json number(double value) { return std::isfinite(value) ? Json(value) : Json(); }

inline Json to_json(const Reached& reached) {
  Json all = Json::array();
  for (const double cost : reached.costs) all.push_back(number(cost));
  return {{"median", number(reached.median())}, {"least", number(reached.least())},
          {"most", number(reached.most())},     {"reached", reached.count()},
          {"of", reached.costs.size()},         {"each", std::move(all)}};
}

inline Json to_json(const Run& run) {
  Json curve = Json::array();
  for (const Point& p : run.curve) {
    curve.push_back({p.epoch, p.evaluations, p.seconds, p.reward});
  }
  return {{"seed", run.settings.seed},
          {"learning_rate", run.settings.learning_rate},
          {"log", run.settings.log.filename().string()},
          {"shares", run.shares},
          {"curve", std::move(curve)}};
}

inline Json to_json(const std::vector<Run>& runs) {
  Json list = Json::array();
  for (const Run& run : runs) list.push_back(to_json(run));
  return list;
}

inline std::string percent(double level) { return fixed(100 * level, 0); }

inline Json levels_of(const std::vector<Run>& runs) {
  Json json;
  for (const double level : levels) {
    for (const Cost& cost : costs) {
      json[percent(level)][cost.name] = to_json(reached(runs, level, cost.of));
    }
  }
  return json;
}

inline Json group_json(const Plan& plan, const Group& group) {
  Json tuning = Json::array();
  for (std::size_t r = 0; r < group.tuning.size(); ++r) {
    tuning.push_back({{"learning_rate", plan.rates[r]}, {"runs", to_json(group.tuning[r])}});
  }
  return {{"learning_rate", group.rate ? Json(*group.rate) : Json()},
          {"final_reward", final_rewards(group.runs)},
          {"to_percent", levels_of(group.runs)},
          {"runs", to_json(group.runs)},
          {"tuning", std::move(tuning)}};
}

/// Whether every run that was planned was finished.
inline bool is_complete(const Plan& plan, const std::vector<TaskResult>& results) {
  for (const TaskResult& result : results) {
    for (const Group& group : result.groups) {
      if (group.runs.size() < plan.seeds) return false;
    }
  }
  return true;
}

/// FlowGRPO over NFT.
inline Json ratios_json(const Group& nft, const Group& flow_grpo) {
  Json json;
  for (const double level : levels) {
    for (const Cost& cost : costs) {
      const auto ratio = ratio_of(flow_grpo.runs, nft.runs, level, cost.of);
      Json& entry = json[percent(level)][cost.name];
      if (!ratio) continue;
      entry = {{"value", ratio->value},
               {"bound", ratio->is_least  ? "at least"
                         : ratio->is_most ? "at most"
                                          : "none"},
               {"low", ratio->low},
               {"high", ratio->high}};
    }
  }
  return json;
}

/// Mean reward of the base model, if it was trained.
inline Json base_reward(const Plan& plan, const std::vector<TaskResult>& results, std::size_t k) {
  const cf::Tensor& samples = results[k].base_samples;
  return samples.defined() ? Json(plan.tasks[k].task(samples).mean().item<double>()) : Json();
}

inline Json summary(const Plan& plan, const std::vector<TaskResult>& results) {
  Json tasks;
  for (std::size_t k = 0; k < results.size(); ++k) {
    Json methods;
    for (std::size_t m = 0; m < plan.methods.size(); ++m) {
      methods[plan.methods[m].name] = group_json(plan, results[k].groups[m]);
    }
    tasks[plan.tasks[k].task.name] = {
        {"dimension", plan.tasks[k].task.dimension},
        {"epochs", plan.tasks[k].epochs},
        {"seeds", seeds(plan, k)},
        {"tuning_seeds", tuning_seeds(plan, k)},
        {"base_reward", base_reward(plan, results, k)},
        {"pretrain_seconds", results[k].base ? results[k].base->seconds : 0.0},
        {"methods", std::move(methods)},
        {"flow_grpo_over_nft",
         ratios_json(results[k].groups[Plan::nft], results[k].groups[Plan::flow_grpo])}};
  }
  return {{"version", version_text()},
          {"complete", is_complete(plan, results)},
          {"threads", plan.threads},
          {"learning_rates", plan.rates},
          {"curve", {"epoch", "evaluations", "seconds", "reward"}},
          {"tasks", std::move(tasks)}};
}

/// What it took to get to each level, a row for each task and method.
inline Table level_table(const Plan& plan, const std::vector<TaskResult>& results,
                         const Cost& cost) {
  Table table({std::string(cost.label) + " to", "method", "90 %", "95 %", "98 %"}, 2);
  for (std::size_t k = 0; k < results.size(); ++k) {
    table.add_rule();
    for (std::size_t m = 0; m < plan.methods.size(); ++m) {
      const Group& group = results[k].groups[m];
      if (group.runs.empty()) continue;
      std::vector<std::string> row{plan.tasks[k].task.name, plan.methods[m].name};
      for (const double level : levels) row.push_back(reached(group.runs, level, cost.of).text());
      table.add(std::move(row));
    }
  }
  return table;
}

/// How runs ended, a row for each task and method.
inline Table end_table(const Plan& plan, const std::vector<TaskResult>& results) {
  Table table({"at the end", "method", "learning rate", "reward", "runs at 95 %",
               "shares of rewarded modes"},
              2);
  for (std::size_t k = 0; k < results.size(); ++k) {
    table.add_rule();
    for (std::size_t m = 0; m < plan.methods.size(); ++m) {
      const Group& group = results[k].groups[m];
      if (group.runs.empty()) continue;
      const auto good = std::count_if(group.runs.begin(), group.runs.end(),
                                      [](const Run& run) { return final_reward(run) >= 0.95; });
      table.add({plan.tasks[k].task.name, plan.methods[m].name, scientific(*group.rate),
                 Range(final_rewards(group.runs)).text(3),
                 std::to_string(good) + " of " + std::to_string(group.runs.size()),
                 shares_text(group.runs)});
    }
  }
  return table;
}

/// FlowGRPO / NFT, a row for each task.
inline Table ratio_table(const Plan& plan, const std::vector<TaskResult>& results) {
  std::vector<std::string> header{"FlowGRPO / NFT"};
  for (const Cost& cost : costs) {
    for (const double level : levels) {
      header.push_back(level == levels[0] ? std::string(cost.name) + " to 90 %"
                                          : percent(level) + " %");
    }
  }
  Table table(header);
  for (std::size_t k = 0; k < results.size(); ++k) {
    const auto& groups = results[k].groups;
    if (groups[Plan::nft].runs.empty() || groups[Plan::flow_grpo].runs.empty()) continue;
    std::vector<std::string> row{plan.tasks[k].task.name};
    for (const Cost& cost : costs) {
      for (const double level : levels) {
        const auto ratio =
            ratio_of(groups[Plan::flow_grpo].runs, groups[Plan::nft].runs, level, cost.of);
        row.push_back(ratio ? ratio->text() : "-");
      }
    }
    table.add(std::move(row));
  }
  return table;
}

}  // namespace head_to_head
