/// NFT and Flow-GRPO on the same toy tasks, side by side.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>

#include "head_to_head/experiment.hpp"
#include "head_to_head/report.hpp"
#include "head_to_head/summary.hpp"

namespace {

using namespace head_to_head;

struct Options {
  bool quick = false;
  std::filesystem::path output = "out/demo";
  int seeds = 0;    // 0: 5, or 2 with --quick
  int threads = 0;  // 0: as many as the machine has
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
  add(cf::toy::hidden_ring(32), 150);
  return plans;
}

std::vector<TaskPlan> chosen_tasks(const Options& options) {
  std::vector<TaskPlan> tasks = all_tasks(options.quick);
  if (options.tasks.empty()) return tasks;
  const auto is_unwanted = [&](const TaskPlan& plan) {
    return std::find(options.tasks.begin(), options.tasks.end(), plan.task.name) ==
           options.tasks.end();
  };
  tasks.erase(std::remove_if(tasks.begin(), tasks.end(), is_unwanted), tasks.end());
  return tasks;
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

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path) << text;
  std::cout << "wrote " << path.string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("NFT and Flow-GRPO on the same toy tasks, side by side");
  app.add_flag("--quick", options.quick, "fewer tasks, seeds and steps: under a minute");
  app.add_option("--output", options.output, "folder of the results")->capture_default_str();
  app.add_option("--seeds", options.seeds, "number of reported seeds");
  app.add_option("--threads", options.threads, "runs at a time");
  app.add_option("--tasks", options.tasks, "only these tasks")->delimiter(',');
  CLI11_PARSE(app, argc, argv);

  // Signals end the runs under way, and what is finished is written.
  cf::StopOnInterrupt interrupt;
  interrupt.start({});

  const Plan plan = plan_of(options);
  std::filesystem::create_directories(plan.output);
  Experiment experiment(plan);
  const auto& results = experiment.run();
  for (const Cost& cost : costs) std::cout << level_table(plan, results, cost).text() << "\n";
  std::cout << end_table(plan, results).text() << "\n" << ratio_table(plan, results).text() << "\n";
  write(plan.output / "summary.json", summary(plan, results).dump(1));
  write(plan.output / "report.html", report(plan, results));
}
