// Makes the base model of scenes: clean captions until it binds, then spoilt ones, so that without
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
#include <nlohmann/json.hpp>

#include <contraflow/core/memory.hpp>
#include <contraflow/core/stopwatch.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/progress_bar.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>

#include "files.hpp"
#include "pretraining.hpp"
#include "support/checkpoints.hpp"
#include "support/format.hpp"
#include "support/options.hpp"
#include "support/ranks.hpp"
#include "support/recorded_losses.hpp"
#include "support/table.hpp"

namespace {

using namespace scenes_example;

struct Options {
  std::filesystem::path output = "out/scenes_base/base.safetensors";
  std::filesystem::path check = "";  // a record of another run
  std::size_t from_phase = 1;        // counted from 1
  std::uint64_t seed = 7;
  int threads = int(std::max(1U, std::thread::hardware_concurrency()));
  bool resume = false;
};

/// Seed of a phase's batches.
std::uint64_t seed_of(const Options& options, std::size_t phase) {
  return cf::stream_seed(options.seed, 2 + phase);
}

cf::OnThreads<SceneFlow> new_model(const Options& options) {
  return {SceneFlow({}, options.seed), options.threads};
}

/// "base.after-1.safetensors" beside "base.safetensors".
std::filesystem::path beside(const Options& options, const std::string& extension) {
  std::filesystem::path path = options.output;
  return path.replace_extension(extension);
}
std::filesystem::path after_phase(const Options& options, std::size_t phase) {
  return beside(options, ".after-" + std::to_string(phase) + ".safetensors");
}

/// What an earlier run wrote down; nothing where there was none.
Json earlier_record(const Options& options) {
  std::ifstream file(beside(options, ".json"));
  if (!file.good()) return {};
  const Json record = Json::parse(file, nullptr, /*allow_exceptions=*/false);
  cf::expects(record.is_object(), "--output", "a record of an earlier run in JSON beside it",
              beside(options, ".json").string());
  return record;
}

/// Has a run that is resumed go on with the phase behind those that are written down.
void find_phase(Options& options) {
  const Json before = earlier_record(options);
  if (!before.is_null()) options.from_phase = before.at("phases").size() + 1;
}

/// The record of the phases before the first that is trained; the seed is that of the record.
Json record_of(Options& options) {
  Json record{{"seed", options.seed}, {"phases", Json::array()}};
  if (options.from_phase == 1) return record;
  const Json before = earlier_record(options);
  cf::expects(!before.is_null(), "--from-phase", "1, where there is no record of an earlier run",
              beside(options, ".json").string());
  options.seed = before.at("seed").get<std::uint64_t>();
  record["seed"] = options.seed;
  const std::size_t recorded = before.at("phases").size();
  cf::expects(recorded + 1 >= options.from_phase, "--from-phase",
              "at most the phase behind those recorded",
              std::to_string(options.from_phase) + " behind " + std::to_string(recorded));
  for (std::size_t i = 0; i + 1 < options.from_phase; ++i) {
    record["phases"].push_back(before.at("phases").at(i));
  }
  return record;
}

/// Keeps the losses of a phase.
struct Losses {
  static constexpr bool on_every_rank = true;
  std::vector<double> values = {};
  void operator()(const cf::EpochReport& report) {
    values.push_back(report.find("loss").value_or(std::nan("")));
  }
};

/// Trains through a phase, from its newest checkpoint on.
/// @param folder for what is only there until the phase is done
/// @return its losses; nothing where a signal ended it
template <class M>
std::optional<Losses> learnt(M& model, std::size_t phase, const scenes::Captioned& set,
                             const Options& options, const std::filesystem::path& folder,
                             const support::Ranks& ranks) {
  const std::filesystem::path checkpoints = folder / ("phase-" + std::to_string(phase + 1));
  const std::filesystem::path lines = checkpoints.string() + ".jsonl";
  auto trainer = trainer_of(model, curriculum()[phase], set, seed_of(options, phase), ranks);
  Losses losses;
  for (const auto& report : support::resumed(trainer, checkpoints, lines)) losses(report);
  const cf::RunReport report =
      support::run_kept(trainer, trainer.epochs(), checkpoints, 10, losses, cf::ProgressBar{},
                        cf::StopOnInterrupt{}, cf::JsonLines{lines});
  if (report.stopped) return std::nullopt;
  return losses;
}

/// Trains, and writes the weights and beside them a record: losses and scores of each phase.
int make(Options options, const support::Ranks& ranks) {
  cf::expects(!options.output.empty() && !std::filesystem::is_directory(options.output), "--output",
              "a file for the weights", options.output);
  const cf::Stopwatch watch;
  if (options.resume) find_phase(options);
  Json record = record_of(options);
  const std::filesystem::path partial = beside(options, ".partial");
  const std::filesystem::path checkpoints =
      support::checkpoint_folder(partial, {{"seed", options.seed}}, options.resume, ranks);
  const scenes::Captioned set = pretraining_set(options.seed);
  cf::OnThreads<SceneFlow> model =
      options.from_phase == 1
          ? new_model(options)
          : cf::OnThreads<SceneFlow>(load_base(after_phase(options, options.from_phase - 1)),
                                     options.threads);
  support::Table table(header_of("strict score after"));
  const std::vector<Phase> phases = curriculum();
  for (std::size_t i = options.from_phase - 1; i < phases.size(); ++i) {
    const Phase& phase = phases[i];
    const cf::Stopwatch of_phase;
    if (support::is_first(ranks)) std::cerr << phase.name << "\n";
    const auto losses = learnt(model, i, set, options, checkpoints, ranks);
    if (!losses) {
      std::cerr << "interrupted: go on with --resume\n";
      return 1;
    }
    const StrictScore plain = evaluated(model, ranks);
    const StrictScore with_guidance = evaluated(guided(model), ranks);
    table.add(row_of(phase.name, plain));
    table.add(row_of(phase.name + ", guidance 4.5", with_guidance));
    record["phases"].push_back({{"name", phase.name},
                                {"steps", phase.steps},
                                {"unguided", to_json(plain)},
                                {"guided", to_json(with_guidance)},
                                {"seconds", of_phase.seconds()},
                                {"losses", losses->values}});
    support::by_first(ranks, [&] {
      cf::write_safetensors(after_phase(options, i + 1), cf::named_weights(*model.module()));
      cf::write_file(beside(options, ".json"), record.dump(1) + "\n");
    });
  }
  if (!support::is_first(ranks)) return 0;
  cf::write_safetensors(options.output, cf::named_weights(*model.module()));
  std::filesystem::remove_all(partial);
  std::cout << table.text() << "\n"
            << support::fixed(watch.seconds(), 0) << " s; wrote " << options.output.string()
            << " and " << beside(options, ".json").string() << "\n";
  return 0;
}

/// Trains the first steps again and compares their losses with those of a record.
int compare(const Options& options, const support::Ranks& ranks) {
  constexpr std::size_t reports = 4;
  std::ifstream file(options.check);
  cf::expects(file.good(), "--check", "a record that this program wrote", options.check.string());
  const Json record = Json::parse(file);
  Options same = options;
  same.seed = record.at("seed").get<std::uint64_t>();
  const auto expected = record.at("phases").at(0).at("losses").get<std::vector<double>>();
  cf::expects(expected.size() >= reports, "--check", "a record of 40 steps or more",
              expected.size());
  auto model = new_model(same);
  Losses losses;
  const auto enough = [&](const cf::EpochReport&) {
    return cf::Verdict{.stop = losses.values.size() >= reports};
  };
  auto trainer =
      trainer_of(model, curriculum().front(), pretraining_set(same.seed), seed_of(same, 0), ranks);
  trainer.run(trainer.epochs(), losses, enough);
  losses.values.resize(reports);
  return support::compared_losses(losses.values, expected);
}

}  // namespace

int main(int argc, char** argv) try {
  const support::Ranks ranks(argc, argv);
  Options options;
  CLI::App app("Makes the base model of scenes");
  app.add_option("--output", options.output, "the weights; a record is written beside them")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of weights, scenes and batches")
      ->check(support::natural())
      ->capture_default_str();
  app.add_option("--threads", options.threads, "between which batches are divided")
      ->check(support::at_least(1));
  CLI::Option* phase =
      app.add_option("--from-phase", options.from_phase, "go on with an earlier run's phase")
          ->check(CLI::Range(std::size_t{1}, curriculum().size()));
  app.add_flag("--resume", options.resume, "go on where an earlier run was ended")->excludes(phase);
  app.add_option("--check", options.check, "only repeat the first 40 steps of this record");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(1);
  cf::keep_freed_memory();
  return options.check.empty() ? make(options, ranks) : compare(options, ranks);
} catch (const std::exception& failure) {
  return support::failed("scenes_pretrain", failure);
}
