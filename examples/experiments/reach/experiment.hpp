#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "methods.hpp"
#include "support/progress.hpp"
#include "support/statistics.hpp"

namespace reaching {

/// Everything that is fixed before the first run.
struct Plan {
  std::vector<std::int64_t> joints;
  std::vector<Method> methods;
  std::vector<double> rates;  ///< the grid of learning rates, for every method
  std::uint64_t first_seed = 1;
  std::uint64_t seeds = 3;  ///< reported runs; the learning rate is chosen on another one
  std::int64_t epochs = 300;
  std::int64_t evaluate_every = 10;
  std::int64_t demonstrations = 20000;
  std::int64_t pretrain_steps = 5000;
  std::filesystem::path output;
  std::filesystem::path checkpoints;  ///< folder
};

/// One method on one arm.
struct Group {
  std::vector<Run> tuning;  ///< one for each rate
  double rate = 0;          ///< the best one
  std::vector<Result> results;

  std::vector<Run> runs() const {
    std::vector<Run> all;
    for (const Result& result : results) all.push_back(result.run);
    return all;
  }
};

/// All methods on one arm.
struct ArmResult {
  Problem problem;
  Shares demonstrated = {};  ///< what came of the demonstrations
  Shares before = {};        ///< of the base model, on held-out scenes
  std::vector<Group> groups = {};
};

/// Mean success over the evaluations of a run: high for what rises early and stays.
inline double merit_of(const Run& run) {
  double sum = 0;
  for (const Point& point : run.curve) sum += point.reward;
  return sum / double(run.curve.size());
}

/// Runs of one plan, one after another.
class Experiment {
 public:
  /// @param ranks who train together
  Experiment(const Plan& plan, const Ranks& ranks)
      : plan_(plan),
        ranks_(ranks),
        progress_(int(plan.joints.size() * plan.methods.size() * (plan.seeds + tuning_runs())),
                  "runs", is_first(ranks)) {}

  /// Until all is done or a signal asks for the end.
  std::vector<ArmResult> run() {
    std::vector<ArmResult> results;
    for (const std::int64_t joints : plan_.joints) {
      if (!is_interrupted()) results.push_back(arm(joints));
    }
    progress_.finish();
    return results;
  }

 private:
  /// Whether a signal came to any rank: all of them leave out the same runs.
  bool is_interrupted() const { return ranks_.agree(cf::StopOnInterrupt::interrupted()); }
  /// Nothing is chosen among one rate.
  std::size_t tuning_runs() const { return plan_.rates.size() > 1 ? plan_.rates.size() : 0; }

  ArmResult arm(std::int64_t joints) {
    const std::string name = std::to_string(joints) + " joints";
    progress_.say(name + ": pre-training on " + std::to_string(plan_.demonstrations) +
                  " demonstrations");
    ArmResult result{
        .problem = prepared(ranks_, {.joints = joints}, plan_.demonstrations, plan_.pretrain_steps,
                            plan_.checkpoints / (std::to_string(joints) + "-joints-base"))};
    const Problem& problem = result.problem;
    result.demonstrated =
        Shares::of(reach::outcomes(problem.world, problem.actions, problem.scenes));
    for (const Method& method : plan_.methods) {
      Group& group = result.groups.emplace_back();
      group.rate = tuned(problem, method, group);
      for (std::uint64_t i = 0; i < plan_.seeds; ++i) {
        add(problem, method, group.rate, plan_.first_seed + i, "run", group.results);
      }
      if (group.results.empty()) continue;
      result.before = group.results.front().before;
      progress_.say(name + ", " + method.name + ", learning rate " + scientific(group.rate) +
                    ": success " + fixed(result.before.reaches, 3) + " before, " +
                    Range(final_rewards(group.runs())).text(3) + " after");
    }
    return result;
  }

  /// The rate whose run has the most merit.
  double tuned(const Problem& problem, const Method& method, Group& group) {
    if (tuning_runs() == 0) return plan_.rates.front();
    std::vector<Result> results;
    for (const double rate : plan_.rates) {
      add(problem, method, rate, plan_.first_seed + 50, "tuning", results);
    }
    for (const Result& result : results) group.tuning.push_back(result.run);
    if (group.tuning.empty()) return plan_.rates.front();
    return std::max_element(group.tuning.begin(), group.tuning.end(),
                            [](const Run& a, const Run& b) { return merit_of(a) < merit_of(b); })
        ->settings.learning_rate;
  }

  void add(const Problem& problem, const Method& method, double rate, std::uint64_t seed,
           const std::string& kind, std::vector<Result>& into) {
    if (is_interrupted()) return;
    const std::string name = std::to_string(problem.world.joints) + "-joints-" + method.file_name +
                             "-" + kind + "-" + scientific(rate) + "-seed" + std::to_string(seed);
    Result result = method.train(problem, {.learning_rate = rate,
                                           .seed = seed,
                                           .epochs = plan_.epochs,
                                           .evaluate_every = plan_.evaluate_every,
                                           .log = plan_.output / "runs" / (name + ".jsonl"),
                                           .checkpoints = plan_.checkpoints / name});
    if (!result.run.is_complete) return;
    into.push_back(std::move(result));
    progress_.advance(name);
  }

  const Plan& plan_;
  const Ranks& ranks_;
  Progress progress_;
};

}  // namespace reaching
