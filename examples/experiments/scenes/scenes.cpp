// GenEval in miniature: a base model that is poor without guidance learns by reward to answer
// prompts of six categories. One method by itself, methods against each other, or the paper's
// ablations.

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

#include "ablations.hpp"
#include "compare.hpp"
#include "files.hpp"
#include "support/options.hpp"
#include "support/run_file.hpp"

namespace {

using namespace scenes_example;

struct Options {
  std::filesystem::path output = "out/scenes", base = CONTRAFLOW_SCENES_BASE;
  bool compare = false, ablations = false, quick = false, resume = false;
  int threads = int(std::max(1U, std::thread::hardware_concurrency()));
  int seeds = 3;
};

/// The folder for checkpoints, beside which the record of the run is written.
/// @param settings in which a run that goes on must agree with the one before it
std::filesystem::path checkpoints_of(const Options& options, Json settings,
                                     const support::RunRecord& record,
                                     const support::Ranks& ranks) {
  settings["base"] = std::filesystem::weakly_canonical(options.base).string();
  const auto folder = support::checkpoint_folder(options.output, settings, options.resume, ranks);
  if (support::is_first(ranks)) cf::write_json(options.output / "run.json", record);
  return folder;
}

/// One method: summary.json, JSON lines, TensorBoard events, weights, pictures.
int run_one(const Options& options, const Settings& settings, const support::RunRecord& record,
            const support::Ranks& ranks) {
  const SceneFlow base = load_base(options.base);
  Json chosen = to_json(settings);
  chosen.update(Json{{"method", name_of(settings.method)}, {"seed", settings.seed}});
  const std::filesystem::path checkpoints =
      checkpoints_of(options, std::move(chosen), record, ranks);
  const cf::OnThreads<SceneFlow> parallel(base, options.threads);
  const StrictScore unguided = evaluated(parallel, ranks, settings.evaluated);
  const StrictScore with_guidance = evaluated(guided(parallel), ranks, settings.evaluated);
  const Run run = improved(base, settings, options.threads,
                           Watched{.lines = options.output / "run.jsonl",
                                   .checkpoints = checkpoints / "run",
                                   .tensorboard = options.output / "tensorboard"},
                           ranks);
  if (!support::is_first(ranks)) return 0;
  Json summary{{"base_unguided", unguided.overall},
               {"base_guided", with_guidance.overall},
               {"base", to_json(unguided)},
               {"base_with_guidance", to_json(with_guidance)},
               {"base_diversity", diversity(parallel, settings.evaluated)},
               {"complete", run.is_complete}};
  summary.update(to_json(run));
  support::write_text(options.output / "summary.json", summary.dump(1) + "\n");
  cf::write_safetensors(options.output / "model.safetensors",
                        cf::named_weights(*run.model.module()));
  write_pictures(options.output, base, run.model);

  support::Table table(header_of("strict score"));
  table.add(row_of("base", unguided));
  table.add(row_of("base, guidance 4.5", with_guidance));
  table.add(row_of(name_of(settings.method) + ", unguided", run.curve.back().strict));
  std::cout << table.text() << "\n"
            << support::compact(run.curve.back().evaluations) << " evaluations, "
            << support::fixed(run.curve.back().seconds, 0) << " s, best "
            << support::fixed(best_of(run), 3) << ", distinct scenes a prompt "
            << support::fixed(100 * run.diversity, 0) << " %\nwrote summary.json, run.jsonl, "
            << "tensorboard/, model.safetensors and pictures.html to " << options.output.string()
            << "\n";
  return 0;
}

/// Options of the command line that say how one method runs; those given win over the set.
class Overrides {
 public:
  explicit Overrides(CLI::App& app) : app_(app) {
    all_.push_back(app.add_option("--method", method_,
                                  "nft, nft-positive (without its negative branch), "
                                  "nft-multi (three rewards), grpo, grpo-guided")
                       ->transform(CLI::CheckedTransformer(methods())));
    all_.push_back(
        app.add_option("--settings", set_, "ours, or published (for Stable Diffusion 3.5)")
            ->check(CLI::IsMember({"ours", "published"})));
    add("--epochs", &Settings::epochs, "collect, score, update");
    add("--seed", &Settings::seed, "of prompts and noise");
    add("--prompts", &Settings::prompts, "an epoch");
    add("--group-size", &Settings::group_size, "samples a prompt");
    add("--gradient-steps", &Settings::gradient_steps, "an epoch");
    add("--ahead", &Settings::ahead, "1: score the next samples while an epoch is learnt",
        CLI::Range(0, 1));
    add("--learning-rate", &Settings::learning_rate, "of AdamW");
    add("--decay-steps", &Settings::decay_steps, "until the rate has fallen to 0.71; 0: it stays");
    add("--kl", &Settings::kl, "weight of the KL term");
    add("--beta", &Settings::beta, "of NFT");
    add("--advantage-clip", &Settings::advantage_clip, "of NFT's map from advantages to r");
    add("--times", &Settings::times, "training times a sample of NFT; 0: nine of ten of the grid");
    add("--clip-range", &Settings::clip_range, "of FlowGRPO's ratio");
    add("--transitions", &Settings::transitions,
        "trained on a sample by FlowGRPO; 0: all but the last");
    add("--evaluate-every", &Settings::evaluate_every, "epochs", support::at_least(1));
    add("--evaluated", &Settings::evaluated, "kept-out prompts of each category in an evaluation",
        support::at_least(1));
  }

  /// Has these options refused together with @p flag.
  void exclude(CLI::Option* flag) {
    for (CLI::Option* option : all_) option->excludes(flag);
  }

  /// What is run, with the values of the set where none was given.
  support::RunRecord record(int ranks) const {
    support::RunRecord record = support::run_record(app_, "scenes", ranks);
    if (values_.empty()) return record;  // of several methods, which have settings of their own
    record["settings"].update(values_);
    record["settings"]["method"] = name_of(method_);
    record["settings"]["settings"] = set_;
    return record;
  }

  Settings settings() {
    Settings settings = set_ == "published" ? published_settings(method_) : our_settings(method_);
    for (const auto& apply : applies_) apply(settings);
    return settings;
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
    CLI::Option* option = app_.add_option(name, given_.*member, help)->check(range);
    all_.push_back(option);
    applies_.push_back([this, option, member](Settings& settings) {
      if (option->count() > 0) settings.*member = given_.*member;
      values_[option->get_lnames().at(0)] = settings.*member;
    });
  }

  CLI::App& app_;
  Method method_ = Method::nft;
  std::string set_ = "ours";
  Settings given_ = {};
  std::vector<CLI::Option*> all_;
  std::vector<std::function<void(Settings&)>> applies_;
  support::RunRecord values_ = support::RunRecord::object();
};

int dispatch(const Options& options, Overrides& overrides, const support::Ranks& ranks) {
  cf::StopOnInterrupt interrupt;
  interrupt.start({});
  cf::expects(options.compare || options.ablations || !options.quick, "--quick",
              "--compare or --ablations with it", "neither");
  if (!options.compare && !options.ablations) {
    const Settings settings = overrides.settings();
    return run_one(options, settings, overrides.record(ranks.size()), ranks);
  }
  const SceneFlow base = load_base(options.base);
  const Json settings{{"runs of", options.compare ? "--compare" : "--ablations"},
                      {"--quick", options.quick}};
  const Plan plan{
      options.output, checkpoints_of(options, settings, overrides.record(ranks.size()), ranks),
      options.seeds,  options.threads,
      options.quick,  ranks};
  return options.compare ? compare(base, plan) : ablate(base, plan);
}

}  // namespace

int main(int argc, char** argv) try {
  const support::Ranks ranks(argc, argv);
  Options options;
  CLI::App app("NFT and FlowGRPO on scenes, GenEval in miniature");
  Overrides overrides(app);
  app.add_option("--output", options.output, "folder of the results")->capture_default_str();
  app.add_option("--base", options.base, "weights that scenes_pretrain made");
  app.add_option("--threads", options.threads, "between which batches, or runs, are divided")
      ->check(support::at_least(1))
      ->capture_default_str();
  CLI::Option* compare =
      app.add_flag("--compare", options.compare, "methods against each other, with a report");
  CLI::Option* ablations =
      app.add_flag("--ablations", options.ablations, "the paper's ablations, with a report")
          ->excludes(compare);
  overrides.exclude(compare);
  overrides.exclude(ablations);
  app.add_option("--seeds", options.seeds, "of --compare and --ablations")
      ->check(support::at_least(1));
  app.add_flag("--quick", options.quick, "a few epochs of --compare or --ablations, to try them");
  app.add_flag("--resume", options.resume, "go on: what is finished in the output is kept")
      ->configurable(false);
  support::add_run_file(app);
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(1);
  cf::keep_freed_memory();
  return dispatch(options, overrides, ranks);
} catch (const std::exception& failure) {
  return support::failed("scenes", failure);
}
