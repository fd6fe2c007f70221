// The paper's ablations of NFT on a toy task: negative branch, schedule of the old policy, beta,
// weight w(t), and collection by an ODE or an SDE. A table of what collapsed and what won.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <contraflow/contraflow.hpp>
#include <contraflow/core/memory.hpp>
#include <contraflow/toy/tasks.hpp>

#include "support/html.hpp"
#include "support/run.hpp"
#include "support/svg.hpp"
#include "support/table.hpp"
#include "support/workers.hpp"

namespace {

namespace cf = contraflow;
namespace html = support::html;
namespace svg = support::svg;

constexpr std::int64_t evaluate_every = 5;
constexpr double collapsed_below = 0.5;  // of a run's own best reward

/// One setting of one ablation, and its runs.
struct Variant {
  std::string ablation, name;
  std::function<support::Run(const cf::toy::Task&, cf::MlpVelocity, const support::RunSettings&)>
      train;
  std::vector<support::Run> runs = {};
};

/// A variant that differs from the base setting in its objective, solver or schedule.
template <class Objective, class Solver = cf::DpmSolver<2>>
Variant variant(std::string ablation, std::string name, Objective objective, Solver solver = {},
                cf::Schedule old_decay = cf::Ramp{.rate = 0.001, .max = 0.5}) {
  const auto train = [=](const cf::toy::Task& task, cf::MlpVelocity model,
                         const support::RunSettings& settings) {
    auto trainer = cf::Trainer(
        cf::SnapshotPolicy(std::move(model), {.old_decay = old_decay}), solver, task,
        objective + 1e-4 * cf::VelocityKl{},
        {.prompts_per_epoch = 8,
         .group_size = 24,
         .grid = cf::uniform_grid(10),
         .update = {.gradient_steps = 2,
                    .optimizer = cf::adamw({.learning_rate = settings.learning_rate})},
         .evaluation = {.every = evaluate_every, .samples = 1000, .grid = cf::uniform_grid(10)},
         .seed = settings.seed},
        cf::GridTimes{.per_sample = 3});
    return support::observed(trainer, task, settings, std::nullopt);
  };
  return {std::move(ablation), std::move(name), train};
}

//! [variants]
std::vector<Variant> all_variants() {
  const cf::Nft nft{.optimality = {.clip = 2}};
  const auto with_beta = [](double beta) {
    return cf::Nft{.beta = beta, .optimality = {.clip = 2}};
  };
  const auto weighted = [](auto weight) {
    return cf::PaperNft{.weight = weight, .optimality = {.clip = 2}};
  };
  cf::Nft positive_only = nft;
  positive_only.negative_branch = false;
  return {
      variant("negative branch", "with", nft),
      variant("negative branch", "without", positive_only),
      variant("old policy", "d = 0", nft, cf::DpmSolver<2>{}, cf::Constant{0}),
      variant("old policy", "ramp to 0.5", nft),
      variant("old policy", "d = 0.9", nft, cf::DpmSolver<2>{}, cf::Constant{0.9}),
      variant("beta", "0.01", with_beta(0.01)),
      variant("beta", "0.1", with_beta(0.1)),
      variant("beta", "1", nft),
      variant("beta", "10", with_beta(10)),
      variant("w(t)", "adaptive", nft),
      variant("w(t)", "1", weighted(cf::time_weight::one)),
      variant("w(t)", "t", weighted(cf::time_weight::t)),
      variant("w(t)", "1 - t", weighted(cf::time_weight::one_minus_t)),
      variant("collection", "ODE, order 2", nft),
      variant("collection", "ODE, order 1", nft, cf::DpmSolver<1>{}),
      variant("collection", "SDE", nft, cf::FlowSde{.noise_level = 0.7}),
  };
}
//! [variants]

double best_reward(const support::Run& run) {
  double best = 0;
  for (const support::Point& point : run.curve) best = std::max(best, point.reward);
  return best;
}

/// Runs that ended far below the best reward they had.
std::size_t collapses(const std::vector<support::Run>& runs) {
  return std::size_t(std::count_if(runs.begin(), runs.end(), [](const support::Run& run) {
    return support::final_reward(run) < collapsed_below * best_reward(run);
  }));
}

support::Table table_of(const std::vector<Variant>& variants) {
  support::Table table({"ablation", "setting", "reward at the end", "best reward",
                        "evaluations to 0.9", "collapsed"},
                       2);
  for (std::size_t i = 0; i < variants.size(); ++i) {
    const Variant& one = variants[i];
    if (i > 0 && variants[i - 1].ablation != one.ablation) table.add_rule();
    std::vector<double> best;
    for (const support::Run& run : one.runs) best.push_back(best_reward(run));
    table.add({one.ablation, one.name, support::Range(support::final_rewards(one.runs)).text(2),
               support::Range(best).text(2), support::evaluations_to(one.runs, 0.9).text(),
               std::to_string(collapses(one.runs)) + " of " + std::to_string(one.runs.size())});
  }
  return table;
}

/// Median reward of a variant's runs against epochs, with the range of the runs.
svg::Series curve_of(const Variant& one, std::size_t colour) {
  svg::Series series{.name = one.name, .colour = colour, .x = {}, .y = {}};
  for (std::size_t i = 0; i < one.runs.front().curve.size(); ++i) {
    std::vector<double> rewards;
    for (const support::Run& run : one.runs) {
      if (i < run.curve.size()) rewards.push_back(run.curve[i].reward);
    }
    const support::Range range(rewards);
    series.x.push_back(one.runs.front().curve[i].epoch);
    series.y.push_back(range.median);
    series.low.push_back(range.least);
    series.high.push_back(range.most);
  }
  return series;
}

std::string page_of(const std::vector<Variant>& variants, double epochs) {
  std::string plots;
  for (std::size_t first = 0; first < variants.size();) {
    std::vector<svg::Series> curves;
    std::size_t i = first;
    for (; i < variants.size() && variants[i].ablation == variants[first].ablation; ++i) {
      curves.push_back(curve_of(variants[i], i - first));
    }
    const svg::Canvas plot =
        svg::line_plot({.label = "epoch", .high = epochs}, {.label = "reward"}, curves);
    plots += html::element(
        "figure", plot.inline_text() + html::element("figcaption", variants[first].ablation));
    first = i;
  }
  return html::page("Ablations of NFT",
                    html::element("h1", "Ablations of NFT") +
                        html::paragraph("Each setting differs in one thing from the base: the "
                                        "published form of NFT with beta 1, the ramp to 0.5 and "
                                        "collection by the second-order ODE solver. Medians and "
                                        "ranges over seeds.") +
                        html::element("div", plots, "class=\"grid\"") +
                        html::table(table_of(variants)));
}

}  // namespace

int main(int argc, char** argv) {
  bool quick = false;
  std::filesystem::path output = "out/ablations";
  int seeds = 3, threads = 2;
  CLI::App app("The paper's ablations of NFT on a toy task");
  app.add_flag("--quick", quick, "one seed, few epochs");
  app.add_option("--output", output, "folder of the results")->capture_default_str();
  app.add_option("--seeds", seeds, "number of seeds")->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "runs at a time")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  if (quick) seeds = 1;

  const std::int64_t epochs = quick ? 15 : 150;
  const cf::toy::Task task = cf::toy::ladder(8);
  cf::keep_freed_memory();
  at::set_num_threads(1);
  std::filesystem::create_directories(output / "runs");
  cf::StopOnInterrupt interrupt;
  const cf::MlpVelocity base = support::pretrained(task, quick ? 800 : 3000, 256, 1);

  std::vector<Variant> variants = all_variants();
  support::Workers workers;
  for (std::size_t i = 0; i < variants.size(); ++i) {
    variants[i].runs.resize(std::size_t(seeds));
    for (int seed = 1; seed <= seeds; ++seed) {
      workers.add(seed, [&, i, seed] {
        if (cf::StopOnInterrupt::interrupted()) return;
        const auto log =
            output / "runs" / (std::to_string(i) + "_seed_" + std::to_string(seed) + ".jsonl");
        variants[i].runs[std::size_t(seed - 1)] =
            variants[i].train(task, cf::clone_of(base),
                              {.learning_rate = 1e-3,
                               .seed = std::uint64_t(seed),
                               .epochs = epochs,
                               .evaluate_every = evaluate_every,
                               .log = log});
      });
    }
  }
  workers.run(threads);
  for (Variant& one : variants) {
    std::erase_if(one.runs, [](const support::Run& run) { return run.curve.empty(); });
  }
  std::erase_if(variants, [](const Variant& one) { return one.runs.empty(); });

  std::cout << table_of(variants).text() << '\n';
  const std::filesystem::path report = output / "report.html";
  std::ofstream(report) << page_of(variants, double(epochs));
  std::cout << "wrote " << report.string() << '\n';
}
