/// NFT and Flow-GRPO on the same toy tasks, side by side.

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>

#include "experiment.hpp"
#include "report.hpp"
#include "summary.hpp"
#include "support/files.hpp"
#include "support/options.hpp"

namespace {

using namespace head_to_head;

struct Options {
  bool quick = false;
  std::filesystem::path output = "out/demo";
  int seeds = 0;    // 0: 5, or 2 with --quick
  int threads = 0;  // 0: as many as the machine has
  bool resume = false;
  std::vector<std::string> tasks;
};

std::vector<TaskPlan> all_tasks(bool quick) {
  std::vector<TaskPlan> plans;
  const auto add = [&](cf::toy::Task task, std::int64_t epochs) {
    plans.push_back({.task = std::move(task),
                     .epochs = epochs,
                     .evaluate_every = 2,
                     .first_seed = 100 * plans.size() + 1});
  };
  add(cf::toy::ring_task(), quick ? 80 : 150);
  if (quick) {
    add(cf::toy::ladder(8), 80);
    return plans;
  }
  add(cf::toy::checkerboard(), 150);
  add(cf::toy::two_moons_to_one(), 150);
  for (const std::int64_t dimension : {2, 8, 32}) add(cf::toy::ladder(dimension), 150);
  add(cf::toy::ladder(128), 200);
  add(cf::toy::hidden_ring(8), 150);
  return plans;
}

std::string names_of(const std::vector<TaskPlan>& tasks) {
  std::vector<std::string> names;
  for (const TaskPlan& plan : tasks) names.push_back(plan.task.name);
  return "some of " + joined(names, ", ");
}

/// The tasks of these names, or all.
std::vector<TaskPlan> chosen_tasks(const Options& options) {
  std::vector<TaskPlan> tasks = all_tasks(options.quick);
  if (options.tasks.empty()) return tasks;
  std::vector<TaskPlan> chosen;
  for (const std::string& name : options.tasks) {
    const auto found = std::find_if(tasks.begin(), tasks.end(),
                                    [&](const TaskPlan& plan) { return plan.task.name == name; });
    if (found == tasks.end()) throw cf::Error("--tasks", names_of(tasks), name);
    chosen.push_back(*found);
  }
  return chosen;
}

/// In which a program that goes on must agree with the one before it; seeds and tasks may be added.
Json settings_of(const Plan& plan) {
  Json settings{{"pretraining", {plan.pretrain_steps, plan.pretrain_batch}},
                {"learning rates", plan.rates},
                {"tuning seeds", plan.tuning_seeds}};
  for (const TaskPlan& task : plan.tasks) {
    settings[task.task.name] = {{"epochs", task.epochs}, {"seed", task.first_seed}};
  }
  return settings;
}

Plan plan_of(const Options& options) {
  Plan plan;
  plan.tasks = chosen_tasks(options);
  plan.methods = {nft(true), flow_grpo(), nft(false)};
  plan.rates = {3e-4, 1e-3, 3e-3, 1e-2};
  plan.seeds = options.seeds > 0 ? options.seeds : options.quick ? 2 : 5;
  plan.tuning_seeds = options.quick ? 1 : 3;
  if (options.quick) plan.pretrain_steps = 1200;
  plan.threads = options.threads > 0 ? options.threads
                                     : int(std::max(1U, std::thread::hardware_concurrency()));
  plan.output = options.output;
  return plan;
}

void print(const Plan& plan, const std::vector<TaskResult>& results) {
  std::cout << level_table(plan, results, costs[1]).text() << "\n"
            << level_table(plan, results, costs[2]).text() << "\n"
            << end_table(plan, results).text() << "\n"
            << ratio_table(plan, results).text() << "\n";
}

void compare(const Options& options, const Ranks& ranks) {
  // Signals end the runs under way, and what is finished is written.
  cf::StopOnInterrupt interrupt;
  interrupt.start({});

  Plan plan = plan_of(options);
  plan.checkpoints = checkpoint_folder(plan.output, settings_of(plan), options.resume, ranks);
  Experiment experiment(plan, ranks);
  const std::vector<TaskResult>& results = experiment.run();
  if (!is_first(ranks)) return;
  print(plan, results);
  if (!is_complete(plan, results)) std::cout << "Stopped early: this is what was finished.\n";
  support::write_and_say(plan.output / "summary.json", summary(plan, results).dump(1));
  support::write_and_say(plan.output / "report.html", report(plan, results));
}

}  // namespace

int main(int argc, char** argv) try {
  const Ranks ranks(argc, argv);
  Options options;
  CLI::App app("NFT and Flow-GRPO on the same toy tasks, side by side");
  app.add_flag("--quick", options.quick, "fewer tasks, seeds and steps: under a minute");
  app.add_option("--output", options.output, "folder of the results")->capture_default_str();
  app.add_option("--seeds", options.seeds, "number of reported runs of each method and task")
      ->check(support::at_least(0));
  app.add_option("--threads", options.threads, "runs at a time")->check(support::at_least(0));
  app.add_option("--tasks", options.tasks, "only these tasks")->delimiter(',');
  app.add_flag("--resume", options.resume, "go on: what is finished in the output is kept");
  CLI11_PARSE(app, argc, argv);
  compare(options, ranks);
} catch (const std::exception& failure) {
  return support::failed("head_to_head", failure);
}
