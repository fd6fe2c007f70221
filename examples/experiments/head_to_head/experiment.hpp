#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "methods.hpp"
#include "statistics.hpp"
#include "support/progress.hpp"
#include "support/ranks.hpp"
#include "support/workers.hpp"

namespace head_to_head {

/// A task with its budget.
struct TaskPlan {
  cf::toy::Task task;
  std::int64_t epochs;
  std::int64_t evaluate_every;
  std::uint64_t first_seed;  ///< tasks share no seed: each is a measurement of its own
};

/// Everything that is fixed before the first run.
struct Plan {
  /// Places among the methods.
  static constexpr std::size_t nft = 0, flow_grpo = 1, no_negatives = 2;

  std::vector<TaskPlan> tasks;
  std::vector<Method> methods;
  std::vector<double> rates;   ///< the grid of learning rates, for every method
  std::uint64_t seeds;         ///< reported runs
  std::uint64_t tuning_seeds;  ///< runs that choose the learning rate, on seeds of their own
  std::int64_t pretrain_steps = 2500;
  std::int64_t pretrain_batch = 512;
  int threads = 2;
  std::filesystem::path output;
  std::filesystem::path checkpoints;  ///< folder
};

/// The seeds of the reported runs of the task number @p k.
inline std::vector<std::uint64_t> seeds(const Plan& plan, std::size_t k) {
  std::vector<std::uint64_t> result(plan.seeds);
  std::iota(result.begin(), result.end(), plan.tasks[k].first_seed);
  return result;
}
/// The seeds of the runs that choose its learning rates.
inline std::vector<std::uint64_t> tuning_seeds(const Plan& plan, std::size_t k) {
  std::vector<std::uint64_t> result(plan.tuning_seeds);
  std::iota(result.begin(), result.end(), plan.tasks[k].first_seed + 50);
  return result;
}

/// One method on one task.
struct Group {
  std::vector<std::vector<Run>> tuning;  ///< a list of runs for each rate
  std::optional<double> rate;            ///< the best one, once it is known
  std::vector<Run> runs;                 ///< by seed
};

/// All methods on one task.
struct TaskResult {
  std::optional<Pretrained> base;
  cf::Tensor data;            ///< samples of the data
  cf::Tensor base_samples;    ///< of the base model, as an evaluation draws them
  std::vector<Group> groups;  ///< by method
};

/// Pre-trains the base of each task, finds each method's learning rate, and runs all seeds.
class Experiment {
 public:
  /// @param ranks between which bases, and methods on a task, are divided
  Experiment(const Plan& plan, const Ranks& ranks)
      : plan_(plan),
        ranks_(ranks),
        results_(plan.tasks.size()),
        progress_(int(total_runs()), "runs", is_first(ranks)) {
    for (TaskResult& result : results_) result.groups.resize(plan_.methods.size());
  }

  /// Until all is done or a signal asks for the end.
  /// @return on the first rank all that was found
  const std::vector<TaskResult>& run() {
    divided(ranks_, plan_.tasks.size(), NeededBy::all, [&](const auto& tasks) {
      for (const std::size_t k : tasks) workers_.add(0, [this, k] { pretrain(k); });
      workers_.run(plan_.threads);
    });
    const std::size_t methods = plan_.methods.size();
    divided(ranks_, plan_.tasks.size() * methods, NeededBy::first, [&](const auto& groups) {
      for (const std::size_t group : groups) tune(group / methods, group % methods);
      workers_.run(plan_.threads);
    });
    progress_.finish();
    return results_;
  }

 private:
  /// The order of jobs: task by task, and first what chooses its learning rates.
  static int place(std::size_t task, int stage) { return int(task) * 2 + stage; }

  std::size_t total_runs() const {
    const std::size_t per_group = plan_.rates.size() * plan_.tuning_seeds + plan_.seeds;
    return plan_.tasks.size() * plan_.methods.size() * per_group;
  }

  void pretrain(std::size_t k) {
    if (cf::StopOnInterrupt::interrupted()) return;
    const TaskPlan& plan = plan_.tasks[k];
    cf::Generator generator = cf::seeded(0);
    results_[k].data = plan.task.data(Common::evaluation_samples, generator);
    results_[k].base = pretrained(plan.task, plan_.pretrain_steps, plan_.pretrain_batch,
                                  plan.first_seed, plan_.checkpoints / (plan.task.name + "-base"));
    results_[k].base_samples = sampled(results_[k].base->model, plan.task);
  }

  /// Samples of a base as an evaluation draws them.
  static cf::Tensor sampled(cf::MlpVelocity& base, const cf::toy::Task& task) {
    const at::NoGradGuard no_gradient;
    cf::Generator generator = cf::seeded(1);
    const cf::Tensor noise = cf::normal({Common::evaluation_samples, task.dimension}, generator);
    const auto velocity = [&](const cf::Tensor& x, double sigma) {
      return base(x, at::full({x.size(0)}, sigma));
    };
    return cf::integrate(cf::DpmSolver<1>{}, velocity, noise,
                         cf::uniform_grid(Common::evaluation_steps), generator);
  }

  void tune(std::size_t k, std::size_t m) {
    Group& group = results_[k].groups[m];
    group.tuning.resize(plan_.rates.size());
    for (std::size_t r = 0; r < plan_.rates.size(); ++r) {
      for (const std::uint64_t seed : tuning_seeds(plan_, k)) {
        workers_.add(place(k, 0), [=, this, &group] {
          train(k, m, plan_.rates[r], seed, "tuning", group.tuning[r]);
          const std::lock_guard lock(mutex_);
          if (group.rate || !is_tuned(group)) return;
          group.rate = best_rate(group);
          report(k, m);
        });
      }
    }
  }

  bool is_tuned(const Group& group) const {
    return std::all_of(group.tuning.begin(), group.tuning.end(),
                       [&](const auto& runs) { return runs.size() == plan_.tuning_seeds; });
  }

  double best_rate(const Group& group) const {
    std::size_t best = 0;
    for (std::size_t r = 1; r < plan_.rates.size(); ++r) {
      if (Merit(group.tuning[r]).is_better_than(Merit(group.tuning[best]))) best = r;
    }
    return plan_.rates[best];
  }

  void report(std::size_t k, std::size_t m) {
    Group& group = results_[k].groups[m];
    for (const std::uint64_t seed : seeds(plan_, k)) {
      workers_.add(place(k, 1), [=, this, &group] {
        train(k, m, *group.rate, seed, "run", group.runs);
        const std::lock_guard lock(mutex_);
        if (group.runs.size() == plan_.seeds) announce(k, m);
      });
    }
  }

  void announce(std::size_t k, std::size_t m) {
    const Group& group = results_[k].groups[m];
    const Reached at95 = evaluations_to(group.runs, 0.95);
    progress_.say(plan_.tasks[k].task.name + ", " + plan_.methods[m].name + ": learning rate " +
                  scientific(*group.rate) + ", evaluations to 95 %: " + at95.text());
  }

  void train(std::size_t k, std::size_t m, double rate, std::uint64_t seed, const std::string& kind,
             std::vector<Run>& into) {
    if (cf::StopOnInterrupt::interrupted()) return;
    const TaskPlan& plan = plan_.tasks[k];
    const std::string name = plan.task.name + "-" + plan_.methods[m].file_name + "-" + kind + "-" +
                             scientific(rate) + "-seed" + std::to_string(seed);
    Run run = plan_.methods[m].train(plan.task, results_[k].base->model,
                                     {.learning_rate = rate,
                                      .seed = seed,
                                      .epochs = plan.epochs,
                                      .evaluate_every = plan.evaluate_every,
                                      .log = plan_.output / "runs" / (name + ".jsonl"),
                                      .checkpoints = plan_.checkpoints / name});
    const std::lock_guard lock(mutex_);
    if (!run.is_complete) return;
    insert_by_seed(into, std::move(run));
    progress_.advance(plan.task.name + ", " + plan_.methods[m].name);
  }

  const Plan& plan_;
  const Ranks& ranks_;
  std::vector<TaskResult> results_;
  Workers workers_;
  std::mutex mutex_;
  Progress progress_;
};

}  // namespace head_to_head
