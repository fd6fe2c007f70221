// What makes NFT work: each of its choices changed alone, on one task, as the paper does it for
// images. A table says what won and what collapsed.

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/tasks.hpp>

#include "support/checkpoints.hpp"
#include "support/files.hpp"
#include "support/format.hpp"
#include "support/html.hpp"
#include "support/options.hpp"
#include "support/progress.hpp"
#include "support/ranks.hpp"
#include "support/run.hpp"
#include "support/statistics.hpp"
#include "support/svg.hpp"
#include "support/table.hpp"
#include "support/workers.hpp"

namespace {

namespace cf = contraflow;
namespace html = support::html;
namespace svg = support::svg;
using support::Run;
using support::RunSettings;

/// One way to run NFT.
struct Variant {
  std::string name;
  std::function<Run(const cf::toy::Task&, const cf::MlpVelocity& base, const RunSettings&)> train;
  std::vector<Run> runs = {};
};

/// One choice with its alternatives; the first is the recipe that all others share.
struct Ablation {
  std::string name;
  std::vector<Variant> variants;
};

/// A variant that differs from the recipe in its objective, old policy or solver.
template <class Objective, class Solver = cf::DpmSolver<2>>
Variant variant(const std::string& name, const Objective& objective,
                const cf::Schedule& old_decay = cf::Ramp{.rate = 0.001, .max = 0.5},
                const Solver& solver = {}) {
  const auto train = [=](const cf::toy::Task& task, const cf::MlpVelocity& base,
                         const RunSettings& settings) {
    auto trainer = cf::Trainer(
        cf::SnapshotPolicy(cf::clone_of(base), cf::SnapshotOptions{.old_decay = old_decay}), solver,
        task, objective, cf::ForwardProcess{.times = cf::GridTimes{.per_sample = 3}},
        cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
        cf::Learning{.gradient_steps = 4},
        cf::Optimization{.optimizer = cf::adamw({.learning_rate = settings.learning_rate})},
        cf::EvaluationOptions{
            .every = settings.evaluate_every, .samples = 1000, .grid = cf::uniform_grid(10)},
        cf::Seed{settings.seed});
    return support::observed(trainer, task, settings, std::nullopt);
  };
  return {name, train};
}

/// NFT of the recipe with another beta, or without its negative branch.
cf::Nft nft(double beta = 1, bool negative_branch = true) {
  return {
      .beta = beta, .optimality = cf::Optimality{.clip = 2}, .negative_branch = negative_branch};
}

/// NFT with the paper's weights w(t) instead of the adaptive ones.
cf::PaperNft weighted(cf::Tensor (*weight)(const cf::Tensor&)) {
  return {.weight = weight, .optimality = cf::Optimality{.clip = 2}};
}

std::vector<Ablation> all_ablations() {
  const auto kl = 0.01 * cf::VelocityKl{};
  const cf::Schedule ramp = cf::Ramp{.rate = 0.001, .max = 0.5};
  const auto recipe = nft() + kl;
  //! [variants]
  return {
      {"negative branch", {variant("with", recipe), variant("without", nft(1, false) + kl)}},
      {"old policy",
       {variant("ramp min(0.001 i, 0.5)", recipe), variant("decay 0", recipe, cf::Constant{0}),
        variant("decay 0.9", recipe, cf::Constant{0.9})}},
      {"beta",
       {variant("1", recipe), variant("0.01", nft(0.01) + kl), variant("0.1", nft(0.1) + kl),
        variant("10", nft(10) + kl)}},
      {"weighting",
       {variant("adaptive", recipe), variant("w(t) = 1", weighted(cf::time_weight::one) + kl),
        variant("w(t) = t", weighted(cf::time_weight::t) + kl),
        variant("w(t) = 1 - t", weighted(cf::time_weight::one_minus_t) + kl)}},
      {"velocity KL",
       {variant("0.01", recipe), variant("none", nft()),
        variant("0.1", nft() + 0.1 * cf::VelocityKl{})}},
      {"collection",
       {variant("ODE, order 2", recipe), variant("ODE, order 1", recipe, ramp, cf::DpmSolver<1>{}),
        variant("SDE", recipe, ramp, cf::FlowSde{.noise_level = 0.7})}},
  };
  //! [variants]
}

double best_reward(const Run& run) {
  double best = 0;
  for (const support::Point& point : run.curve) best = std::max(best, point.reward);
  return best;
}

double median_of(const std::vector<Run>& runs, double (*of)(const Run&)) {
  std::vector<double> values;
  for (const Run& run : runs) values.push_back(of(run));
  return support::quantile(values, 0.5).value_or(0);
}

/// Collapsed: fell to less than half of what it had reached, or never rose.
bool is_collapsed(const Variant& variant) {
  const double end = median_of(variant.runs, support::final_reward);
  return end < 0.5 * median_of(variant.runs, best_reward) || end < 0.2;
}

double evaluations_to_95(const Variant& variant) {
  return support::reached(variant.runs, 0.95, &support::Point::evaluations).median();
}

std::string verdict(const Ablation& ablation, const Variant& variant) {
  if (is_collapsed(variant)) return "collapsed";
  const auto winner = std::min_element(
      ablation.variants.begin(), ablation.variants.end(), [](const Variant& a, const Variant& b) {
        if (is_collapsed(a) != is_collapsed(b)) return is_collapsed(b);
        if (evaluations_to_95(a) != evaluations_to_95(b)) {
          return evaluations_to_95(a) < evaluations_to_95(b);
        }
        return median_of(a.runs, support::final_reward) > median_of(b.runs, support::final_reward);
      });
  return &*winner == &variant ? "won" : "";
}

support::Table table_of(const std::vector<Ablation>& ablations) {
  support::Table table(
      {"choice", "variant", "reward at the end", "best", "evaluations to 95 %", ""}, 2);
  for (const Ablation& ablation : ablations) {
    table.add_rule();
    for (const Variant& variant : ablation.variants) {
      if (variant.runs.empty()) continue;
      table.add({ablation.name, variant.name,
                 support::Range(support::final_rewards(variant.runs)).text(2),
                 support::fixed(median_of(variant.runs, best_reward), 2),
                 support::reached(variant.runs, 0.95, &support::Point::evaluations).text(),
                 verdict(ablation, variant)});
    }
  }
  return table;
}

/// Median and range over runs, which all have the same epochs.
svg::Series curve_of(const Variant& variant, std::size_t colour) {
  svg::Series series{variant.name, colour, {}, {}};
  const std::size_t points = variant.runs.empty() ? 0 : variant.runs.front().curve.size();
  for (std::size_t i = 0; i < points; ++i) {
    std::vector<double> rewards;
    for (const Run& run : variant.runs) rewards.push_back(run.curve[i].reward);
    series.x.push_back(variant.runs.front().curve[i].epoch);
    series.y.push_back(*support::quantile(rewards, 0.5));
    series.low.push_back(*support::quantile(rewards, 0));
    series.high.push_back(*support::quantile(rewards, 1));
  }
  return series;
}

svg::Canvas plot_of(const Ablation& ablation, std::int64_t epochs) {
  std::vector<svg::Series> series;
  for (const Variant& variant : ablation.variants) {
    series.push_back(curve_of(variant, series.size()));
  }
  return svg::line_plot({"epochs", 0, double(epochs)}, {"reward", 0, 1}, series, 460, 290);
}

struct Options {
  std::filesystem::path output = "out/ablations";
  bool quick = false;
  std::int64_t dimension = 0;  // 0: 128, or 32 with --quick
  int seeds = 0;               // 0: 3, or 1 with --quick
  int threads = 0;             // 0: as many as the machine has
  bool resume = false;
};

/// What is the same for all variants.
struct Experiment {
  cf::toy::Task task;
  cf::MlpVelocity base;
  std::int64_t epochs;
  int seeds, threads;
  std::filesystem::path output, checkpoints;
  const support::Ranks& ranks;
};

/// The base of all variants: the first rank makes it, and the others read it.
cf::MlpVelocity base_of(const cf::toy::Task& task, const std::filesystem::path& checkpoints,
                        const support::Ranks& ranks) {
  std::optional<support::Pretrained> base;
  support::divided(ranks, 1, support::NeededBy::all, [&](const auto& pieces) {
    if (!pieces.empty()) base = support::pretrained(task, 2500, 512, 0, checkpoints / "base");
  });
  return base->model;
}

Experiment experiment_of(const Options& options, const support::Ranks& ranks) {
  const auto or_else = [](auto chosen, auto otherwise) { return chosen > 0 ? chosen : otherwise; };
  const cf::toy::Task task =
      cf::toy::ladder(or_else(options.dimension, std::int64_t{options.quick ? 32 : 128}));
  const std::int64_t epochs = options.quick ? 40 : 120;
  const std::filesystem::path checkpoints = support::checkpoint_folder(
      options.output, {{"dimension", task.dimension}, {"epochs", epochs}}, options.resume, ranks);
  const int cores = int(std::max(1U, std::thread::hardware_concurrency()));
  at::set_num_threads(1);
  return {.task = task,
          .base = base_of(task, checkpoints, ranks),
          .epochs = epochs,
          .seeds = or_else(options.seeds, options.quick ? 1 : 3),
          .threads = or_else(options.threads, cores),
          .output = options.output,
          .checkpoints = checkpoints,
          .ranks = ranks};
}

/// "old_policy-2-seed1".
std::string run_name(const Ablation& ablation, const Variant& variant, int seed) {
  std::string name = ablation.name;
  std::replace(name.begin(), name.end(), ' ', '_');
  return name + "-" + std::to_string(&variant - ablation.variants.data()) + "-seed" +
         std::to_string(seed);
}

/// One run of one variant.
struct Piece {
  const Ablation& ablation;
  Variant& variant;
  int seed;
};

std::vector<Piece> pieces_of(std::vector<Ablation>& ablations, int seeds) {
  std::vector<Piece> pieces;
  for (Ablation& ablation : ablations) {
    for (Variant& variant : ablation.variants) {
      for (int seed = 1; seed <= seeds; ++seed) pieces.push_back({ablation, variant, seed});
    }
  }
  return pieces;
}

/// Fills in the runs of all variants, by seed, or as many as are finished when a signal comes.
void train(std::vector<Ablation>& ablations, const Experiment& experiment) {
  const std::vector<Piece> pieces = pieces_of(ablations, experiment.seeds);
  support::Progress progress(int(pieces.size()), "runs", support::is_first(experiment.ranks));
  support::Workers workers;
  std::mutex mutex;
  const auto run = [&](const Piece& piece) {
    if (cf::StopOnInterrupt::interrupted()) return;
    const std::string name = run_name(piece.ablation, piece.variant, piece.seed);
    const RunSettings settings{.learning_rate = 1e-3,
                               .seed = std::uint64_t(piece.seed),
                               .epochs = experiment.epochs,
                               .evaluate_every = 4,
                               .log = experiment.output / "runs" / (name + ".jsonl"),
                               .checkpoints = experiment.checkpoints / name};
    Run result = piece.variant.train(experiment.task, experiment.base, settings);
    const std::lock_guard lock(mutex);
    if (result.is_complete) support::insert_by_seed(piece.variant.runs, std::move(result));
    progress.advance(piece.ablation.name + ", " + piece.variant.name);
  };
  support::divided(experiment.ranks, pieces.size(), support::NeededBy::first, [&](const auto& own) {
    for (const std::size_t i : own) workers.add(0, [&, i] { run(pieces[i]); });
    workers.run(experiment.threads);
  });
  progress.finish();
}

std::string page(const std::vector<Ablation>& ablations, const support::Table& table,
                 const std::string& subject, std::int64_t epochs) {
  std::string plots;
  for (const Ablation& ablation : ablations) {
    plots += html::element("figure", html::element("figcaption", html::escaped(ablation.name)) +
                                         plot_of(ablation, epochs).inline_text());
  }
  return html::page("What makes NFT work", html::element("h1", "What makes NFT work") +
                                               html::paragraph(subject) + html::table(table) +
                                               html::element("div", plots, "class=\"grid\""));
}

void compare(const Options& options, const support::Ranks& ranks) {
  cf::StopOnInterrupt interrupt;
  interrupt.start({});
  const Experiment experiment = experiment_of(options, ranks);
  std::vector<Ablation> ablations = all_ablations();
  train(ablations, experiment);
  if (!support::is_first(ranks)) return;

  const support::Table table = table_of(ablations);
  const std::string subject = "NFT on " + experiment.task.name +
                              ", one choice changed at a time; medians and ranges of " +
                              std::to_string(experiment.seeds) + " runs of " +
                              std::to_string(experiment.epochs) + " epochs.";
  std::cout << subject << "\n\n" << table.text() << "\n";
  support::write_and_say(options.output / "ablations.html",
                         page(ablations, table, subject, experiment.epochs));
}

}  // namespace

int main(int argc, char** argv) try {
  const support::Ranks ranks(argc, argv);
  Options options;
  CLI::App app("Ablations of NFT");
  app.add_option("--output", options.output, "folder of the results")->capture_default_str();
  app.add_option("--dimension", options.dimension, "of the task, an even number")
      ->check(support::at_least(0));
  app.add_flag("--quick", options.quick, "one short run of each, in 32 dimensions");
  app.add_option("--seeds", options.seeds, "runs of each variant")->check(support::at_least(0));
  app.add_option("--threads", options.threads, "runs at a time")->check(support::at_least(0));
  app.add_flag("--resume", options.resume, "go on: what is finished in the output is kept");
  CLI11_PARSE(app, argc, argv);
  compare(options, ranks);
} catch (const std::exception& failure) {
  return support::failed("ablations", failure);
}
