#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/contraflow.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>
#include <contraflow/toy/tasks.hpp>

#include "format.hpp"

/// Training runs on toy tasks, and what is to be said of several of them.
namespace support {

namespace cf = contraflow;

/// What one run may differ in.
struct RunSettings {
  double learning_rate = 1e-3;
  std::uint64_t seed = 0;
  std::int64_t epochs = 100;
  std::int64_t evaluate_every = 5;
  std::filesystem::path log;  ///< JSON lines
};

/// The state of a run at an evaluation.
struct Point {
  double epoch;
  double evaluations;  ///< of the velocity for one sample: forward counts one, backward two
  double seconds;      ///< of training alone
  double reward;
};

/// What a run gave.
struct Run {
  RunSettings settings;
  std::vector<Point> curve;    ///< the first is the base model's
  std::vector<double> shares;  ///< of the rewarded modes at the end
  cf::Tensor samples;          ///< at the end
  bool is_complete = false;    ///< not interrupted
};

/// A run ends early when so many evaluations in a row are all solved or all dead.
struct Settled {
  int evaluations = 12;
  double solved = 0.985, dead = 0.03;
};

/// Ends a run that has stayed solved, or dead, for long enough.
class StopWhenSettled {
 public:
  explicit StopWhenSettled(const Settled& settled) : settled_(settled) {}

  cf::Verdict operator()(const cf::EpochReport& report) {
    const auto reward = report.find("evaluation/reward");
    if (!reward) return {};
    solved_ = *reward >= settled_.solved ? solved_ + 1 : 0;
    dead_ = *reward <= settled_.dead ? dead_ + 1 : 0;
    const bool is_solved = solved_ >= settled_.evaluations;
    const bool is_dead = dead_ >= settled_.evaluations;
    return {.stop = is_solved || is_dead, .reason = is_solved ? "solved" : "dead"};
  }

 private:
  Settled settled_;
  int solved_ = 0, dead_ = 0;
};

/// Trains with a trainer of any type; its evaluations are the run's curve.
/// @param settled when to end early; nothing: never
template <class Trainer>
Run observed(Trainer& trainer, const cf::toy::Task& task, const RunSettings& settings,
             const std::optional<Settled>& settled) {
  Run run;
  run.settings = settings;
  run.curve.push_back({0, 0, 0, trainer.evaluate().reward});
  const auto record = [&](const cf::EpochReport& report) {
    const auto reward = report.find("evaluation/reward");
    if (!reward) return;
    const double evaluations =
        double(report.forward_evaluations) + 2 * double(report.backward_evaluations);
    run.curve.push_back({double(report.epoch), evaluations, report.seconds, *reward});
  };
  // No reward is that high or that low: the run goes on to its last epoch.
  const Settled never{.solved = 2, .dead = -1};
  trainer.run(settings.epochs, record, StopWhenSettled(settled.value_or(never)),
              cf::StopOnInterrupt{}, cf::JsonLines{settings.log});
  run.samples = trainer.evaluate().x0;
  run.shares = task.shares(run.samples);
  run.is_complete = !cf::StopOnInterrupt::interrupted();
  return run;
}

/// Learns the data of a task by flow matching.
/// @return a model whose samples are worth improving; the same for equal arguments
inline cf::MlpVelocity pretrained(const cf::toy::Task& task, std::int64_t steps, std::int64_t batch,
                                  std::uint64_t seed) {
  cf::MlpVelocity model({.dimension = task.dimension, .width = 128, .depth = 3, .seed = seed});
  const auto warm_up_and_decay = [steps](std::int64_t step) {
    const double cosine = 0.5 * (1 + std::cos(M_PI * double(step) / double(steps)));
    return std::min(1.0, double(step) / 50) * (0.02 + 0.98 * cosine);
  };
  cf::pretrain(model, task.data,
               {.steps = steps,
                .batch = batch,
                .optimizer = cf::adamw({.learning_rate = 2e-3}),
                .learning_rate_factor = warm_up_and_decay,
                .seed = seed},
               cf::UniformTimes{}, cf::StopOnInterrupt{});
  return model;
}

inline constexpr double never = std::numeric_limits<double>::infinity();

/// What a run took to reach a reward first, between two evaluations by linear interpolation.
inline double first_at(const Run& run, double level, double Point::*cost) {
  for (std::size_t i = 0; i < run.curve.size(); ++i) {
    const Point& point = run.curve[i];
    if (point.reward < level) continue;
    if (i == 0) return point.*cost;
    const Point& before = run.curve[i - 1];
    const double share = (level - before.reward) / (point.reward - before.reward);
    return std::lerp(before.*cost, point.*cost, share);
  }
  return never;
}

/// Costs of several runs; `never` where a run did not get there.
struct Reached {
  std::vector<double> costs;

  double median() const { return quantile(costs, 0.5).value_or(never); }
  double least() const { return quantile(costs, 0).value_or(never); }
  double most() const { return quantile(costs, 1).value_or(never); }
  std::size_t count() const {
    return std::size_t(
        std::count_if(costs.begin(), costs.end(), [](double cost) { return std::isfinite(cost); }));
  }

  /// "median (least - most)".
  std::string text() const {
    if (costs.empty()) return "no run";
    if (count() == 0) return "not reached";
    const auto shown = [](double cost) {
      return std::isfinite(cost) ? compact(cost) : std::string("never");
    };
    return shown(median()) + " (" + shown(least()) + " – " + shown(most()) + ")";
  }
};

inline Reached reached(const std::vector<Run>& runs, double level, double Point::*cost) {
  Reached result;
  for (const Run& run : runs) result.costs.push_back(first_at(run, level, cost));
  return result;
}
inline Reached evaluations_to(const std::vector<Run>& runs, double level) {
  return reached(runs, level, &Point::evaluations);
}

/// Mean reward of the last three evaluations.
inline double final_reward(const Run& run) {
  const std::size_t count = std::min<std::size_t>(run.curve.size(), 3);
  double sum = 0;
  for (std::size_t i = run.curve.size() - count; i < run.curve.size(); ++i) {
    sum += run.curve[i].reward;
  }
  return sum / double(count);
}
inline std::vector<double> final_rewards(const std::vector<Run>& runs) {
  std::vector<double> rewards;
  for (const Run& run : runs) rewards.push_back(final_reward(run));
  return rewards;
}

/// Median, least and most.
struct Range {
  explicit Range(const std::vector<double>& values) : is_empty(values.empty()) {
    if (is_empty) return;
    median = *quantile(values, 0.5);
    least = *quantile(values, 0);
    most = *quantile(values, 1);
  }
  std::string text(int decimals) const {
    if (is_empty) return "no run";
    return fixed(median, decimals) + " (" + fixed(least, decimals) + " – " + fixed(most, decimals) +
           ")";
  }
  bool is_empty;
  double median = 0, least = 0, most = 0;
};

/// "80 / 20".
inline std::string percentages(const std::vector<double>& shares) {
  std::vector<std::string> texts;
  for (const double share : shares) texts.push_back(fixed(100 * share, 0));
  return joined(texts, " / ");
}

/// Median over runs of the share of each rewarded mode, in percent.
///
/// Modes are put in the order of their shares in each run first: which one wins differs by seed.
inline std::string shares_text(const std::vector<Run>& runs) {
  std::vector<std::vector<double>> ordered;
  for (const Run& run : runs) {
    std::vector<double> shares = run.shares;
    std::sort(shares.rbegin(), shares.rend());
    ordered.resize(shares.size());
    for (std::size_t i = 0; i < shares.size(); ++i) ordered[i].push_back(shares[i]);
  }
  std::vector<double> medians;
  for (const auto& shares : ordered) medians.push_back(*quantile(shares, 0.5));
  return percentages(medians);
}

}  // namespace support
