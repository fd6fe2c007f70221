// The paper's task of text rendering in miniature: a base model that writes few words right without
// guidance learns by what Tesseract reads in its images. One run of one method.

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <contraflow/core/memory.hpp>
#include <contraflow/io/json.hpp>

#include "files.hpp"
#include "support/options.hpp"
#include "support/run_file.hpp"

namespace {

using namespace words_example;

struct Options {
  std::filesystem::path output = "out/words", base = CONTRAFLOW_WORDS_BASE;
  std::filesystem::path glyphs = CONTRAFLOW_WORDS_GLYPHS;
  bool resume = false;
  int threads = int(std::max(1U, std::thread::hardware_concurrency()));
};

/// Options of the command line that say how a method runs; those given win over its recipe.
class Overrides {
 public:
  explicit Overrides(CLI::App& app) : app_(app) {
    app.add_option("--method", settings_.method, "nft, grpo, grpo-guided")
        ->transform(CLI::CheckedTransformer(methods()));
    add("--epochs", &Settings::epochs, "collect, score, update");
    add("--seed", &Settings::seed, "of prompts and noise");
    add("--prompts", &Settings::prompts, "an epoch");
    add("--group-size", &Settings::group_size, "samples a prompt");
    add("--gradient-steps", &Settings::gradient_steps, "an epoch");
    add("--learning-rate", &Settings::learning_rate, "of AdamW");
    add("--decay-steps", &Settings::decay_steps, "until the rate has fallen to 0.71; 0: it stays");
    add("--kl", &Settings::kl, "weight of the KL term");
    add("--beta", &Settings::beta, "of NFT");
    add("--old-most", &Settings::old_most, "largest decay of the old policy");
    add("--times", &Settings::times, "training times a sample of NFT");
    add("--clip-range", &Settings::clip_range, "of FlowGRPO's ratio");
    add("--transitions", &Settings::transitions, "trained on a sample by FlowGRPO");
    add("--evaluate-every", &Settings::evaluate_every, "epochs", support::at_least(1));
    add("--evaluated", &Settings::evaluated, "words of training and words kept out of it",
        support::at_least(1));
  }

  /// The settings, when all options are parsed.
  Settings settings() {
    const Settings of_method = recipe(settings_.method);
    for (const auto& complete : completions_) complete(of_method);
    return settings_;
  }
  /// What is run; after settings().
  support::RunRecord record(int ranks) const {
    support::RunRecord record = support::run_record(app_, "words", ranks);
    record["settings"].update(values_);
    record["settings"]["method"] = name_of(settings_.method);
    return record;
  }

 private:
  template <class T>
  static CLI::Validator range_of() {
    if constexpr (std::is_floating_point_v<T>) return support::at_least_0();
    if constexpr (std::is_unsigned_v<T>) return support::natural();
    return support::at_least(0);
  }

  template <class T>
  void add(const std::string& name, T Settings::*member, const std::string& help,
           const CLI::Validator& range = range_of<T>()) {
    CLI::Option* option = app_.add_option(name, settings_.*member, help)->check(range);
    completions_.push_back([this, option, member](const Settings& of_method) {
      if (option->count() == 0) settings_.*member = of_method.*member;
      values_[option->get_lnames().at(0)] = settings_.*member;
    });
  }

  CLI::App& app_;
  Settings settings_ = {};
  std::vector<std::function<void(const Settings&)>> completions_;
  support::RunRecord values_ = support::RunRecord::object();
};

/// The folder for checkpoints, beside which the record of the run is written.
std::filesystem::path checkpoints_of(const Options& options, const support::RunRecord& record,
                                     const support::Ranks& ranks) {
  Json settings = record["settings"];
  // How far it goes, and where it stands, may differ where a run goes on.
  for (const char* name : {"epochs", "output", "threads"}) settings.erase(name);
  const auto folder = support::checkpoint_folder(options.output, settings, options.resume, ranks);
  if (support::is_first(ranks)) cf::write_json(options.output / "run.json", record);
  return folder;
}

/// Writes summary.json, JSON lines, TensorBoard events, weights and pictures.
int run(const Options& options, Overrides& overrides, const support::Ranks& ranks) {
  const Settings settings = overrides.settings();
  const WordFlow base = load_base(options.base);
  const Judge judge{Reader(options.threads),
                    words::TemplateReader(words::read_glyphs(options.glyphs))};
  const std::filesystem::path checkpoints =
      checkpoints_of(options, overrides.record(ranks.size()), ranks);
  const cf::OnThreads<WordFlow> parallel(base, options.threads);
  const Scores with_guidance = evaluated(guided(parallel), judge, settings.evaluated, ranks);
  const Run run = improved(base, judge, settings, options.threads,
                           Watched{.lines = options.output / "run.jsonl",
                                   .checkpoints = checkpoints / "run",
                                   .tensorboard = options.output / "tensorboard"},
                           ranks);
  if (!support::is_first(ranks)) return 0;
  Json summary{{"method", name_of(settings.method)},
               {"seed", settings.seed},
               {"base_with_guidance", to_json(with_guidance)}};
  summary.update(to_json(run));
  support::write_text(options.output / "summary.json", summary.dump(1) + "\n");
  write_half(options.output / "model.safetensors", run.model);
  write_pictures(options.output, base, run.model);

  support::Table table(header_of("score"));
  table.add(row_of("base", run.curve.front().scores));
  table.add(row_of("base, guidance 4.5", with_guidance));
  table.add(row_of(name_of(settings.method), run.curve.back().scores));
  std::cout << table.text() << "\n"
            << support::compact(run.curve.back().evaluations) << " evaluations, "
            << support::fixed(run.curve.back().seconds, 0) << " s, of which the reader took "
            << support::fixed(100 * run.reading, 0) << " %\nwrote summary.json, run.jsonl, "
            << "tensorboard/, model.safetensors and pictures.html to " << options.output.string()
            << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  const support::Ranks ranks(argc, argv);
  Options options;
  CLI::App app("NFT and FlowGRPO on words that Tesseract reads");
  Overrides overrides(app);
  app.add_option("--output", options.output, "folder of the results")->capture_default_str();
  app.add_option("--base", options.base, "weights that words_pretrain made");
  app.add_option("--glyphs", options.glyphs, "letters that the base was made with");
  app.add_option("--threads", options.threads, "between which batches and readings are divided")
      ->check(support::at_least(1))
      ->capture_default_str();
  app.add_flag("--resume", options.resume, "go on where an earlier run was ended")
      ->configurable(false);
  support::add_run_file(app);
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(1);
  cf::keep_freed_memory();
  return run(options, overrides, ranks);
} catch (const std::exception& failure) {
  return support::failed("words", failure);
}
