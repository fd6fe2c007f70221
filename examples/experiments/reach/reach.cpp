// A planar arm learns to reach among obstacles: a flow over chunks of joint velocities, pre-trained
// on imperfect demonstrations, improved by the 0 or 1 of a simulator, by NFT and by FlowGRPO.

#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "experiment.hpp"
#include "report.hpp"
#include "support/files.hpp"
#include "support/options.hpp"

namespace {

using namespace reaching;

struct Options {
  bool quick = false;
  std::vector<std::int64_t> joints;  // none: 2 and 7, or 2 with --quick
  std::string method = "compare";
  std::int64_t epochs = 0;  // 0: 300, or 60 with --quick
  std::uint64_t seed = 1;
  std::uint64_t seeds = 0;  // 0: 3 to compare, else 1
  std::filesystem::path output = "out/reach";
  bool resume = false;
};

std::vector<Method> methods_of(const std::string& name) {
  if (name == "nft") return {nft()};
  if (name == "grpo") return {flow_grpo()};
  return {nft(), flow_grpo()};
}

Plan plan_of(const Options& options) {
  const bool compares = options.method == "compare" && !options.quick;
  Plan plan;
  plan.joints = options.joints;
  if (plan.joints.empty())
    plan.joints = options.quick ? std::vector<std::int64_t>{2} : std::vector<std::int64_t>{2, 7};
  plan.methods = methods_of(options.method);
  plan.rates = compares ? std::vector{1e-4, 3e-4, 1e-3, 3e-3} : std::vector{3e-4};
  plan.first_seed = options.seed;
  plan.seeds = options.seeds > 0 ? options.seeds : compares ? 3 : 1;
  plan.epochs = options.epochs > 0 ? options.epochs : options.quick ? 60 : 300;
  if (options.quick) {
    plan.demonstrations = 4000;
    plan.pretrain_steps = 1000;
  }
  plan.output = options.output;
  return plan;
}

/// In which a program that goes on must agree with the one before it; runs may be added.
Json settings_of(const Plan& plan) {
  return {{"demonstrations", plan.demonstrations},
          {"pretraining", plan.pretrain_steps},
          {"epochs", plan.epochs}};
}

void write_all(const Plan& plan, const std::vector<ArmResult>& arms) {
  std::cout << outcome_table(plan, arms).text() << "\n" << speed_table(plan, arms).text() << "\n";
  support::write_and_say(plan.output / "summary.json", summary(plan, arms).dump(1));
  support::write_and_say(plan.output / "report.html", report(plan, arms));
  for (const ArmResult& arm : arms) {
    const std::string joints = std::to_string(arm.problem.world.joints);
    support::write_and_say(plan.output / ("reach_" + joints + ".svg"),
                           picture(plan, arm).file_text());
    support::write_and_say(plan.output / ("reach_" + joints + "_curves.svg"),
                           curves(plan, arm).file_text());
  }
}

/// Whether every arm's first method made more chunks succeed, in every run.
bool is_improved(const std::vector<ArmResult>& arms) {
  for (const ArmResult& arm : arms) {
    for (const Result& result : arm.groups.front().results) {
      if (result.after.reaches <= result.before.reaches) return false;
    }
  }
  return true;
}

int run(const Options& options, const Ranks& ranks) {
  // Signals end the run under way, and what is finished is written.
  cf::StopOnInterrupt interrupt;
  interrupt.start({});

  Plan plan = plan_of(options);
  plan.checkpoints = checkpoint_folder(plan.output, settings_of(plan), options.resume, ranks);
  const std::vector<ArmResult> arms = Experiment(plan, ranks).run();
  const bool is_early = ranks.agree(cf::StopOnInterrupt::interrupted());
  if (is_first(ranks)) {
    write_all(plan, arms);
    if (is_early) std::cout << "Stopped early: this is what was finished.\n";
  }
  return is_early || is_improved(arms) ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) try {
  const Ranks ranks(argc, argv);
  Options options;
  CLI::App app("A planar arm among obstacles, improved by reward");
  app.add_flag("--quick", options.quick, "few demonstrations and epochs: under a minute");
  app.add_option("--joints", options.joints, "arms, such as 2,7")
      ->delimiter(',')
      ->check(support::at_least(1));
  app.add_option("--method", options.method, "nft, grpo, or compare with tuned learning rates")
      ->check(CLI::IsMember({"nft", "grpo", "compare"}))
      ->capture_default_str();
  app.add_option("--epochs", options.epochs, "of every run; 0: 300, or 60 with --quick")
      ->check(support::at_least(0));
  app.add_option("--seed", options.seed, "of the first run")
      ->check(support::natural())
      ->capture_default_str();
  app.add_option("--seeds", options.seeds, "number of runs of each method and arm")
      ->check(support::natural());
  app.add_option("--output", options.output, "folder of the results")->capture_default_str();
  app.add_flag("--resume", options.resume, "go on: what is finished in the output is kept");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(1);  // what so small a network takes
  return run(options, ranks);
} catch (const std::exception& failure) {
  return support::failed("reach", failure);
}
