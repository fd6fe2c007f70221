// Makes the base model of words: clean captions until it spells, then spoilt ones, so that without
// guidance it shows little of what it knows.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <contraflow/core/memory.hpp>
#include <contraflow/core/stopwatch.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/progress_bar.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>

#include "files.hpp"
#include "pretraining.hpp"
#include "support/checkpoints.hpp"
#include "support/options.hpp"
#include "support/recorded_losses.hpp"

namespace {

using namespace words_example;

struct Options {
  std::filesystem::path output = "out/words_base/base.safetensors";
  std::filesystem::path glyphs = CONTRAFLOW_WORDS_GLYPHS;
  std::filesystem::path check = "";  // a record of another run
  std::uint64_t seed = 7;
  Hiding hiding = {};
  int threads = int(std::max(1U, std::thread::hardware_concurrency()));
  bool resume = false;
};

/// Words of either list in the evaluation of a phase.
constexpr std::int64_t evaluated_words = 62;

/// Seed of a phase's batches.
std::uint64_t seed_of(std::uint64_t seed, std::size_t phase) {
  return cf::stream_seed(seed, 2 + phase);
}

cf::OnThreads<WordFlow> new_model(const Options& options) {
  return {WordFlow({}, options.seed), options.threads};
}

/// "base.json" beside "base.safetensors".
std::filesystem::path beside(const Options& options, const std::string& extension) {
  std::filesystem::path path = options.output;
  return path.replace_extension(extension);
}

/// Keeps the losses of a phase.
struct Losses {
  static constexpr bool on_every_rank = true;
  std::vector<double> values = {};
  void operator()(const cf::EpochReport& report) {
    values.push_back(report.find("loss").value_or(std::nan("")));
  }
};

/// Trains through a phase, from its newest checkpoint on: where it was done before, that is its
/// last.
/// @return its losses; nothing where a signal ended it
template <class Trainer>
std::optional<Losses> learnt(Trainer trainer, const std::filesystem::path& checkpoints,
                             const support::Ranks& ranks) {
  const std::filesystem::path lines = checkpoints.string() + ".jsonl";
  Losses losses;
  for (const auto& report : support::resumed(trainer, checkpoints, lines)) losses(report);
  if (trainer.epoch() >= trainer.epochs()) return losses;
  if (support::is_first(ranks)) std::cerr << checkpoints.filename().string() << "\n";
  const cf::RunReport report =
      support::run_kept(trainer, trainer.epochs(), checkpoints, 10, losses, cf::ProgressBar{},
                        cf::StopOnInterrupt{}, cf::JsonLines{lines});
  if (report.stopped) return std::nullopt;
  return losses;
}

/// Trains, and writes the weights and beside them a record: losses and scores of each phase.
int make(const Options& options, const support::Ranks& ranks) {
  cf::expects(!options.output.empty() && !std::filesystem::is_directory(options.output), "--output",
              "a file for the weights", options.output);
  const cf::Stopwatch watch;
  const std::filesystem::path partial = beside(options, ".partial");
  const std::filesystem::path checkpoints =
      support::checkpoint_folder(partial, {{"seed", options.seed}}, options.resume, ranks);
  const words::Glyphs glyphs = words::read_glyphs(options.glyphs);
  const Judge judge{Reader(options.threads), words::TemplateReader(glyphs)};
  const Tensor set = pretraining_set(options.seed);
  const cf::OnThreads<WordFlow> model = new_model(options);
  Json record{{"seed", options.seed},
              {"spoilt_letters", options.hiding.spoilt_letters},
              {"phases", Json::array()}};
  support::Table table(header_of("score after"));
  const std::vector<Phase> phases = curriculum(options.hiding);
  for (std::size_t i = 0; i < phases.size(); ++i) {
    const auto losses =
        learnt(trainer_of(model, phases[i], glyphs, set, seed_of(options.seed, i), ranks),
               checkpoints / ("phase-" + std::to_string(i + 1)), ranks);
    if (!losses) {
      std::cerr << "interrupted: go on with --resume\n";
      return 1;
    }
    const Scores plain = evaluated(model, judge, evaluated_words, ranks);
    const Scores with_guidance = evaluated(guided(model), judge, evaluated_words, ranks);
    table.add(row_of(phases[i].name, plain));
    table.add(row_of(phases[i].name + ", guidance 4.5", with_guidance));
    record["phases"].push_back({{"name", phases[i].name},
                                {"steps", phases[i].steps},
                                {"unguided", to_json(plain)},
                                {"guided", to_json(with_guidance)},
                                {"losses", losses->values}});
    support::by_first(ranks, [&] {
      write_half(beside(options, ".after-" + std::to_string(i + 1) + ".safetensors"),
                 model.wrapped());
    });
  }
  if (!support::is_first(ranks)) return 0;
  write_half(options.output, model.wrapped());
  support::write_text(beside(options, ".json"), record.dump(1) + "\n");
  std::filesystem::remove_all(partial);
  std::cout << table.text() << "\n"
            << support::fixed(watch.seconds(), 0) << " s; wrote " << options.output.string()
            << " and " << beside(options, ".json").string() << "\n";
  return 0;
}

/// Trains the first steps again and compares their losses with those of a record.
int compare(const Options& options, const support::Ranks& ranks) {
  constexpr std::size_t reports = 2;
  std::ifstream file(options.check);
  cf::expects(file.good(), "--check", "a record that this program wrote", options.check.string());
  const Json record = Json::parse(file);
  Options same = options;
  same.seed = record.at("seed").get<std::uint64_t>();
  const auto expected = record.at("phases").at(0).at("losses").get<std::vector<double>>();
  cf::expects(expected.size() >= reports, "--check", "a record of 20 steps or more",
              expected.size());
  Losses losses;
  const auto enough = [&](const cf::EpochReport&) {
    return cf::Verdict{.stop = losses.values.size() >= reports};
  };
  auto trainer =
      trainer_of(new_model(same), curriculum({}).front(), words::read_glyphs(same.glyphs),
                 pretraining_set(same.seed), seed_of(same.seed, 0), ranks);
  trainer.run(trainer.epochs(), losses, enough);
  losses.values.resize(reports);
  return support::compared_losses(losses.values, expected);
}

}  // namespace

int main(int argc, char** argv) try {
  const support::Ranks ranks(argc, argv);
  Options options;
  CLI::App app("Makes the base model of words");
  app.add_option("--output", options.output, "the weights; a record is written beside them")
      ->capture_default_str();
  app.add_option("--glyphs", options.glyphs, "letters, as scripts/prepare_glyphs makes them");
  app.add_option("--seed", options.seed, "of weights, words and batches")
      ->check(support::natural())
      ->capture_default_str();
  app.add_option("--spoilt-steps", options.hiding.steps, "of the last phase")
      ->check(support::at_least(1))
      ->capture_default_str();
  app.add_option("--spoilt-letters", options.hiding.spoilt_letters, "share of them in that phase")
      ->check(support::finite())
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "between which batches and readings are divided")
      ->check(support::at_least(1));
  app.add_flag("--resume", options.resume, "go on where an earlier run was ended");
  app.add_option("--check", options.check, "only repeat the first 20 steps of this record");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(1);
  cf::keep_freed_memory();
  return options.check.empty() ? make(options, ranks) : compare(options, ranks);
} catch (const std::exception& failure) {
  return support::failed("words_pretrain", failure);
}
