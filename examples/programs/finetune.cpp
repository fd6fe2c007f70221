// Fine-tuning of Stable Diffusion 3, 3.5 or FLUX.1 by reinforcement learning: a folder of weights,
// prompts and a reward in, an adapter for diffusers and peft out. All settings are the published
// ones by default.
//
//   finetune --model stable-diffusion-3.5-medium --prompts prompts.txt --reward colourfulness
//   finetune --tiny        a tiny model with random weights, to see the whole path at once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <CLI/CLI.hpp>

#include <contraflow/contraflow.hpp>
#include <contraflow/io/contact_sheet.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/fingerprint.hpp>
#include <contraflow/io/folder_lock.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/io/png.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/model/autocasting.hpp>
#include <contraflow/observe/collapse_guard.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/picture.hpp>
#include <contraflow/observe/picture_files.hpp>
#include <contraflow/observe/progress_bar.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>
#include <contraflow/observe/tensorboard.hpp>
#include <contraflow/pipeline/decoded_rewards.hpp>
#include <contraflow/pipeline/image_generation.hpp>
#include <contraflow/pipeline/lora_files.hpp>
#include <contraflow/pipeline/stored_prompts.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "support/image_rewards.hpp"
#include "support/options.hpp"
#include "support/phases.hpp"
#include "support/ranks.hpp"
#include "support/run_file.hpp"
#include "support/text_to_image_options.hpp"

namespace {

namespace cf = contraflow;
namespace fs = std::filesystem;

using Model = cf::Guided<cf::Autocasting<support::Transformer>, cf::TextCondition>;
using Policy = cf::LoraPolicy<Model>;
using Rewards = cf::pipeline::DecodedRewards<support::ImageRewards>;
using Prompts = cf::pipeline::StoredPrompts<cf::Records>;
using Warnings = std::vector<cf::Warning>;

/// The noise of GRPO, of one kind or the other: trainers are compiled once.
struct Sde {
  std::variant<cf::FlowSde, cf::Cps> kind = {};

  using State = cf::TransitionState;
  State init(const cf::Tensor& x) const {
    return std::visit([&](const auto& sde) { return sde.init(x); }, kind);
  }
  cf::Transition transition(const cf::Step& step) const {
    return std::visit([&](const auto& sde) { return sde.transition(step); }, kind);
  }
  template <class V>
  cf::Tensor step(V& velocity, const cf::Tensor& x, const cf::Step& step, State& state,
                  cf::Generator& generator) const {
    return cf::step_by_transition(*this, velocity, x, step, state, generator);
  }
};

struct Settings {
  support::text_to_image::Model model;
  support::text_to_image::Adapter lora;
  fs::path prompt_file, evaluation_prompt_file, output = "out/finetune";
  std::vector<std::string> rewards = {"colourfulness"};
  std::string method = "nft", sde = "flow", negative;
  std::int64_t epochs = 100, prompts = 48, group = 24, size = 512;
  std::int64_t gradient_steps = 1, ahead = 0, micro_batch = 4, rollout_batch = 8, rank = 32;
  std::int64_t encode_ahead = 256;
  std::int64_t save_every = 10, evaluate_every = 10, evaluation_images = 16;
  int steps = 10, evaluation_steps = 40;
  std::int64_t window = 2;
  double learning_rate = 3e-4, beta = 1, clip_range = 1e-4, noise_level = 0.7;
  std::optional<double> alpha, kl, guidance;
  std::optional<std::int64_t> average_every;
  std::optional<at::ScalarType> autocast;
  std::uint64_t seed = 0;
  int threads = at::get_num_threads();
  bool recompute = false, resume = false, anew = false;
  support::RunRecord record;  ///< of all these

  fs::path checkpoints() const { return output / "checkpoints"; }
  fs::path run_file() const { return output / "run.json"; }
  /// What adapters are trained over, which `run.json` tells by its contents.
  fs::path base() const { return support::text_to_image::folder_of(model, output) / "transformer"; }

  bool is_grpo() const { return method.starts_with("grpo"); }
  /// As published: 1e-4 for NFT, 0.04 for GRPO, none for FLUX.1.
  double kl_weight() const {
    if (kl) return *kl;
    if (!takes_no_kl()) return 1e-4;
    return model.is_flux() ? 0 : is_grpo() ? 0.04 : 1e-4;
  }
  /// Whether the method is compiled without a KL term, too.
  bool takes_no_kl() const { return is_grpo() || method == "nft" || method == "dpo"; }
  double lora_alpha() const { return alpha.value_or(double(2 * rank)); }
  /// As published for GRPO. The few steps of a tiny run would leave such an average at its start.
  std::int64_t steps_of_average() const {
    return average_every.value_or(is_grpo() && !model.tiny ? 8 : 1);
  }
  /// As published: none for NFT, 4.5 for GRPO; for FLUX.1 3.5, which it is told.
  double guidance_scale() const {
    return guidance.value_or(model.is_flux() ? 3.5 : is_grpo() ? 4.5 : 1.0);
  }
  /// FLUX.1 is told the guidance scale; a second pass is Stable Diffusion's way.
  double two_pass_scale() const { return model.is_flux() ? model.true_guidance : guidance_scale(); }
  Sde sde_of_grpo() const {
    if (sde == "cps") return {cf::Cps{.noise_level = noise_level}};
    return {cf::FlowSde{.noise_level = noise_level}};
  }
  cf::LoraOptions adapter() const {
    cf::LoraOptions options{.rank = rank, .alpha = lora_alpha()};
    if (model.is_flux()) options.targets = cf::flux::lora_options().targets;
    return options;
  }
};

cf::Optimization optimization(const Settings& settings) {
  cf::Optimization result{.optimizer = cf::adamw({.learning_rate = settings.learning_rate}),
                          .micro_batch = settings.micro_batch};
  if (settings.autocast == at::kHalf) result.loss_scale = cf::LossScaleOptions{};
  return result;
}

cf::Collection collection(const Settings& settings, const support::Folder& folder) {
  const auto shape = folder.latent_shape(settings.size, settings.size);
  return {.prompts_per_epoch = settings.prompts,
          .group_size = settings.group,
          .grid = folder.grid(settings.steps, shape),
          .rollout_batch = settings.rollout_batch,
          .sample_shape = shape};
}

/// Pictures of the averaged policy, for fixed prompts and noise.
struct Pictures {
  cf::Tensor sheet;  ///< [3, H, W]
  double reward;     ///< mean; NaN where nothing was scored
};
template <class Trainer>
Pictures drawn(Trainer& trainer, const cf::Vae& vae, Warnings& warnings) {
  const cf::Evaluation evaluation = trainer.evaluate();
  for (const std::string& failure : evaluation.failures) {
    warnings.push_back({"evaluation/failure", 1, failure});
  }
  if (evaluation.scores.empty() && evaluation.failures.empty()) {
    warnings.push_back({"evaluation/masked", double(evaluation.masked),
                        "no sample of this evaluation has a score"});
  }
  std::vector<cf::Tensor> images;
  for (const cf::Tensor& latents : evaluation.x0.split(1)) {
    images.push_back(vae.decode(latents)[0].to(at::kCPU));
  }
  return {cf::contact_sheet(images, 4), evaluation.reward};
}

void say_reward(const char* when, const std::optional<double>& reward) {
  if (!reward) return;
  std::cout << "reward " << when << ' ';
  std::isnan(*reward) ? std::cout << "unknown: nothing was scored\n" : std::cout << *reward << '\n';
}

void save_adapter(Policy& policy, const fs::path& folder) {
  const cf::LoraWeights weights = policy.weights(cf::Role::average);
  cf::write_diffusers_lora(folder / "diffusers", weights);
  cf::write_peft_lora(folder / "peft", weights);
}

/// What is there is gone on from, or replaced, only where that is asked for.
void expects_own_folder(const Settings& settings) {
  if (settings.resume || settings.anew) return;
  const auto there = cf::checkpoints_in(settings.checkpoints());
  if (there.empty()) return;
  throw cf::Error("--output",
                  "a folder without checkpoints (--resume goes on from them, --anew replaces them)",
                  there.back().string());
}

/// Notes what the files that a run begins with hold; throws Error where those that the checkpoints
/// are of held something else.
/// @return what else has changed, each in a sentence
std::vector<std::string> changed_contents(Settings& settings, const support::RunRecord& before) {
  const auto kept_with = [](const std::string& name) { return name == "model" || name == "lora"; };
  std::vector<std::string> changes;
  const std::pair<const char*, fs::path> files[] = {
      {"model", settings.base()},
      {"lora", settings.lora.path},
      {"prompts", settings.prompt_file},
      {"evaluation-prompts", settings.evaluation_prompt_file}};
  for (const auto& [name, path] : files) {
    if (path.empty() || !fs::exists(path)) continue;
    const std::string now = cf::fingerprint(path, cf::FileTime::ignored);
    settings.record["contents"][name] = now;
    const std::string was = before.value("contents", support::RunRecord::object()).value(name, now);
    if (was == now) continue;
    const std::string option = std::string("--") + name;
    if (kept_with(name)) {
      throw cf::Error(option,
                      "what the run in the output began with (or --anew, or another folder)",
                      "other contents in " + path.string());
    }
    changes.push_back("goes on with " + option + " that have changed, " + path.string());
  }
  return changes;
}

/// What the checkpoints that are to be gone on from were made with; empty where nothing is.
support::RunRecord record_before(const Settings& settings) {
  if (!settings.resume || !fs::exists(settings.run_file())) return support::RunRecord::object();
  if (cf::checkpoints_in(settings.checkpoints()).empty()) return support::RunRecord::object();
  const support::RunRecord before = cf::read_json(settings.run_file());
  const auto found = before.is_object() ? before.find("settings") : before.end();
  if (found == before.end() || !found->is_object()) {
    throw cf::Error(settings.run_file().string(), "the settings of a run", "none");
  }
  return before;
}

/// Throws Error where the checkpoints that are to be gone on from would mean something else.
/// @return the other settings that differ, each in a sentence
std::vector<std::string> changed_settings(const Settings& settings, support::RunRecord before) {
  // Those that others follow from by default come first.
  static const std::vector<std::string> decisive{"tiny",     "tiny-flux",
                                                 "method",   "rank",
                                                 "seed",     "int8",
                                                 "alpha",    "guidance",
                                                 "negative", "true-guidance",
                                                 "sde",      "average-every",
                                                 "lora",     "lora-without-text-encoders"};
  std::vector<std::string> changes;
  if (before.empty()) return changes;
  // Of records that do not have them yet.
  if (settings.model.is_flux()) before.at("settings").emplace("true-guidance", 1);
  before.at("settings").emplace("sde", "flow");
  before.at("settings").emplace("average-every", settings.is_grpo() ? 8 : 1);
  const auto others = support::other_settings(before, settings.record);
  for (const std::string& name : decisive) {
    const auto other = std::find_if(others.begin(), others.end(),
                                    [&name](const auto& one) { return one.name == name; });
    if (other == others.end()) continue;
    throw cf::Error("--" + name,
                    other->before.dump() + " as in " + settings.run_file().string() +
                        " (or --anew, or another folder)",
                    other->now.dump());
  }
  for (const auto& [name, was, is] : others) {
    changes.push_back("goes on with --" + name + " " + is.dump() + ", before " + was.dump());
  }
  return changes;
}

/// Says what is run, and of which run the checkpoints are.
/// @param resumed whether that is the run that the file is of
void write_run_file(const Settings& settings, std::int64_t run, bool resumed) {
  if (resumed && fs::exists(settings.run_file())) {
    const std::int64_t before = cf::Settings(settings.run_file()).integer("run");
    cf::expects(before == run, "--resume", "checkpoints of the run that run.json is of (or --anew)",
                "those of another");
  }
  support::RunRecord record = settings.record;
  record["run"] = run;
  cf::write_json(settings.run_file(), record);
}

/// What all methods share.
struct Parts {
  const Settings& settings;
  const support::Folder& folder;
  Policy policy;
  Rewards rewards;
  Prompts prompts, evaluation_prompts;
  std::shared_ptr<cf::Vae> vae;
  std::shared_ptr<Warnings> warnings;  ///< of prompts that were cut
  support::Phases& phases;
  const support::Ranks& ranks;
};

/// @param points where the objective looks, ForwardProcess or RecordedTransitions
template <class Solver, class Objective, class Points>
void train(Parts parts, const Solver& solver, const Objective& objective, const Points& points) {
  const Settings& settings = parts.settings;
  const fs::path& output = settings.output;
  const cf::Collection collected = collection(settings, parts.folder);
  const cf::TimeGrid evaluation_grid =
      parts.folder.grid(settings.evaluation_steps, collected.sample_shape);
  cf::Trainer trainer(
      std::move(parts.policy), solver, std::move(parts.rewards), objective,
      std::move(parts.prompts), collected, points,
      cf::Learning{.gradient_steps = settings.gradient_steps}, optimization(settings),
      cf::Evaluator(
          cf::EvaluationOptions{.samples = settings.evaluation_images, .grid = evaluation_grid},
          cf::DpmSolver<1>{}, std::move(parts.evaluation_prompts)),
      cf::Seed{settings.seed}, cf::Ahead{settings.ahead}, parts.ranks);
  const auto warn = [&](const cf::Warning& warning) { parts.phases.say(warning.message); };
  const bool resumed = settings.resume && cf::resume(trainer, settings.checkpoints(), warn);
  if (settings.resume) {
    parts.phases.say(resumed ? "resumed after epoch " + std::to_string(trainer.epoch())
                             : "no checkpoint to go on from: begins anew");
  }
  if (support::is_first(parts.ranks)) write_run_file(settings, trainer.run_number(), resumed);
  const std::int64_t epochs_before = trainer.epoch(), steps_before = trainer.gradient_steps();
  //! [observers]
  const auto evaluation = [&](auto& of_run, cf::EpochReport& report) {
    if (report.epoch % settings.evaluate_every != 0) {
      return report.add("evaluation/reward", std::nullopt);
    }
    const Pictures pictures = drawn(of_run, *parts.vae, *parts.warnings);
    const bool scored = !std::isnan(pictures.reward);
    report.add("evaluation/reward", scored ? std::optional(pictures.reward) : std::nullopt);
    report.pictures.push_back(cf::picture_of("evaluation", pictures.sheet));
  };
  const auto adapter_saver = [&](const cf::EpochReport& report) {
    if (report.epoch % settings.save_every != 0) return;
    save_adapter(trainer.policy(), output / "adapters" / ("epoch-" + std::to_string(report.epoch)));
  };
  //! [observers]
  const auto prompt_warnings = [&](const cf::EpochReport&) -> cf::Verdict {
    return {.warnings = std::exchange(*parts.warnings, {})};
  };
  const auto evaluated = [&](const char* file) {
    Warnings warnings;
    const Pictures pictures = drawn(trainer, *parts.vae, warnings);
    for (const cf::Warning& warning : warnings) warn(warning);
    if (support::is_first(parts.ranks)) cf::write_png(output / file, pictures.sheet);
    return pictures.reward;
  };

  std::optional<double> before;
  if (!resumed) {
    parts.phases.begin("evaluating before");
    before = evaluated("before.png");
  }
  parts.phases.begin("training");
  const cf::RunReport report = trainer.run(
      settings.epochs, evaluation, cf::ProgressBar{}, cf::StopOnInterrupt{}, cf::CollapseGuard{},
      cf::JsonLines{output / "run.jsonl"}, cf::TensorBoard{output / "tensorboard"},
      cf::PictureFiles{output / "pictures"}, prompt_warnings, adapter_saver,
      cf::Checkpoint{.directory = settings.checkpoints(),
                     .every = settings.save_every,
                     .anew = settings.anew});
  if (support::is_first(parts.ranks)) save_adapter(trainer.policy(), output / "adapter");
  std::optional<double> after;
  if (!report.stopped) {
    parts.phases.begin("evaluating after");
    after = evaluated("after.png");
  }
  if (!support::is_first(parts.ranks)) return;
  std::cout << parts.phases.table().text() << "epochs " << report.epochs << ", gradient steps "
            << trainer.gradient_steps() << ", evaluations of the network "
            << trainer.evaluations().forward << '\n';
  say_reward("before", before);
  say_reward("after", after);
  const std::int64_t made = trainer.gradient_steps();
  if (!report.stopped && made > 0 && made < settings.steps_of_average()) {
    std::cout << "the adapter is still the one of the start: it is an average that is taken every "
              << settings.steps_of_average() << " gradient steps (--average-every)\n";
  }
  std::cout << "adapters, pictures and records in " << output.string() << '\n';
  if (report.stopped) std::cout << report.reason << '\n';
  if (const std::string reason = trainer.reason_to_end(); !reason.empty()) {
    throw cf::Error("--reward", "scores", reason);
  }
  if (report.epochs > epochs_before && trainer.gradient_steps() == steps_before) {
    throw cf::Error("gradient steps", "at least one", "none: run.jsonl says what failed");
  }
}

void train_by_method(Parts parts) {
  const Settings& settings = parts.settings;
  const std::string& method = settings.method;
  const double kl = settings.kl_weight();
  const auto by_velocities = [&](const auto& objective) {
    const cf::ForwardProcess points{.report_times = true};
    train(std::move(parts), cf::DpmSolver<2>{}, objective, points);
  };
  const auto with_velocity_kl = [&](const auto& objective) {
    by_velocities(objective + kl * cf::VelocityKl{});
  };
  const auto by_transitions = [&](const auto& solver, const auto& objective) {
    const cf::RecordedTransitions points{.report_steps = true};
    if (kl == 0) return train(std::move(parts), solver, objective, points);
    train(std::move(parts), solver, objective + kl * cf::TransitionKl{}, points);
  };
  const cf::Nft nft{.beta = settings.beta};
  if (method == "nft") return kl == 0 ? by_velocities(nft) : with_velocity_kl(nft);
  if (method == "awm") return with_velocity_kl(cf::Awm{});
  if (method == "dpo") return by_velocities(cf::Dpo{});
  if (method == "rwr") return with_velocity_kl(cf::RewardWeighted{});
  if (method == "sft") return with_velocity_kl(cf::BestOfGroup{});
  const Sde sde = settings.sde_of_grpo();
  const cf::Grpo grpo{.clip_range = settings.clip_range};
  if (method == "grpo") return by_transitions(sde, grpo);
  if (method == "grpo-fast") {
    const cf::WindowPlace place{.length = std::size_t(settings.window)};
    return by_transitions(cf::Window<Sde, cf::DpmSolver<2>>{.sde = sde, .place = place}, grpo);
  }
  by_transitions(sde, cf::GrpoGuard{.clip_range = settings.clip_range});
}

/// Rows that are encoded before the networks are loaded: those of evaluations, as many of training
/// as are asked for, and the last, which is the negative prompt.
cf::Tensor rows_ahead(const Settings& settings, std::int64_t training, std::int64_t evaluation) {
  const std::int64_t evaluated = settings.evaluation_images;
  const std::int64_t ahead =
      std::max(settings.encode_ahead, evaluation == 0 ? evaluated : std::int64_t{0});
  return at::cat({at::arange(std::min(training, ahead), at::kLong),
                  at::arange(std::min(evaluation, evaluated), at::kLong) + training,
                  at::full({1}, training + evaluation, at::kLong)});
}

/// Of a file, or three to try.
cf::Records prompts_of(const fs::path& file) {
  if (!file.empty()) return cf::read_records(file);
  return cf::records_in("a photo of a cat\ntwo red circles\na house by the sea", "prompts");
}

void run(Settings& settings, const support::Ranks& ranks) {
  cf::make_folder(settings.output);
  support::Phases phases(support::is_first(ranks));
  std::optional<cf::FolderLock> lock;
  support::by_first(ranks, [&] {
    lock.emplace(settings.output);
    expects_own_folder(settings);
    const support::RunRecord before = record_before(settings);
    for (const std::string& change : changed_settings(settings, before)) phases.say(change);
    support::text_to_image::prepare(settings.model, settings.output);
    for (const std::string& change : changed_contents(settings, before)) phases.say(change);
  });
  const support::Folder folder = support::text_to_image::opened(settings.model, settings.output);
  // Faults are found now, not after the text encoders.
  folder.look_through(settings.steps, collection(settings, folder).sample_shape);
  if (settings.guidance && !folder.is_told_guidance()) {
    phases.say("--guidance changes nothing: FLUX.1 [schnell] is told none");
  }
  cf::LoraPolicyOptions of_policy{.average_every = settings.steps_of_average(),
                                  .seed = settings.seed};
  if (settings.lora.is_given()) of_policy.start = settings.lora.read();
  support::ImageRewards rewards = support::image_rewards(settings.rewards);
  const cf::Records records = prompts_of(settings.prompt_file);
  cf::Records own_evaluation;
  if (!settings.evaluation_prompt_file.empty()) {
    own_evaluation = cf::read_records(settings.evaluation_prompt_file);
  }
  support::expects_prompts_for(settings.rewards, records);
  support::expects_prompts_for(settings.rewards, own_evaluation);

  phases.begin("encoding prompts");
  cf::Captions all = cf::captions_of(records);
  for (std::string& caption : cf::captions_of(own_evaluation)) all.push_back(std::move(caption));
  all.push_back(settings.negative);
  const auto warnings = std::make_shared<Warnings>();
  const auto warn = [warnings](const cf::Warning& warning) { warnings->push_back(warning); };
  const auto store = folder.with_prompts(settings.model.prompts(), [&](const auto& of_model,
                                                                       const auto& options) {
    return stored_prompts(of_model, settings.output / "prompts.safetensors", all, options, warn);
  });
  const auto training = std::int64_t(records.size());
  support::by_first(ranks, [&] {
    store->prepare(rows_ahead(settings, training, std::int64_t(own_evaluation.size())));
  });

  phases.begin("loading the networks");
  const auto vae = folder.vae({.dtype = at::kFloat, .device = at::Device(settings.model.device)});
  const auto transformer =
      folder.transformer(settings.model.transformer(settings.guidance_scale(), settings.recompute));
  const cf::TextCondition negative = store->condition(at::full({1}, store->size() - 1, at::kLong));
  Policy policy(
      Model(cf::Autocasting(transformer, settings.autocast), negative, settings.two_pass_scale()),
      settings.adapter(), of_policy);
  train_by_method({settings, folder, std::move(policy), Rewards(vae, std::move(rewards)),
                   Prompts(store, 0, records),
                   own_evaluation.empty() ? Prompts(store, 0, records)
                                          : Prompts(store, training, own_evaluation),
                   vae, warnings, phases, ranks});
}

void add_options(CLI::App& app, Settings& settings) {
  static const std::map<std::string, at::ScalarType> halves{{"bfloat16", at::kBFloat16},
                                                            {"float16", at::kHalf}};
  support::text_to_image::add_options(app, settings.model);
  const auto option = [&](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->capture_default_str();
  };
  const auto count = [&](const char* name, auto& value, const char* help) {
    option(name, value, help)->check(support::at_least(1));
  };
  option("--method", settings.method, "nft, awm, dpo, rwr, sft, grpo, grpo-fast or grpo-guard")
      ->check(
          CLI::IsMember({"nft", "awm", "dpo", "rwr", "sft", "grpo", "grpo-fast", "grpo-guard"}));
  option("--reward", settings.rewards, support::reward_help);
  app.add_option("--prompts", settings.prompt_file,
                 "File with a prompt a line, or a JSON object a line with a \"prompt\"; judges are "
                 "told the whole object")
      ->check(support::not_empty());
  app.add_option("--evaluation-prompts", settings.evaluation_prompt_file,
                 "Such a file for evaluations; those of training by default")
      ->check(support::not_empty());
  app.add_option("--negative", settings.negative, "Negative prompt, for guidance");
  support::text_to_image::add_options(app, settings.lora,
                                      "Adapter to start from, which is then the reference");
  option("--encode-ahead", settings.encode_ahead,
         "Prompts that are encoded before the networks are loaded, at most; others are when they "
         "are first drawn")
      ->check(CLI::NonNegativeNumber);
  option("--output", settings.output, "Folder for all results");
  count("--epochs", settings.epochs, "Epochs in all");
  const auto number_of = [&](const char* name, auto& value, std::int64_t most, const char* help) {
    option(name, value, help)->check(support::between(1, most));
  };
  number_of("--prompts-per-epoch", settings.prompts, 1'000'000, "Prompts an epoch");
  number_of("--group", settings.group, 100'000, "Images a prompt");
  number_of("--size", settings.size, 16'384,
            "Pixels along a side, a multiple of 16; FLUX.1 rounds down to one");
  number_of("--steps", settings.steps, 10'000, "Sampling steps of collection");
  count("--gradient-steps", settings.gradient_steps, "Gradient steps an epoch");
  option("--ahead", settings.ahead, "1: score the next images while an epoch is learnt")
      ->check(CLI::Range(0, 1));
  count("--micro-batch", settings.micro_batch, "Samples of one forward pass of the update");
  count("--rollout-batch", settings.rollout_batch, "Images that are collected together");
  number_of("--rank", settings.rank, 65'536, "Of the adapter");
  const auto number = [&](const char* name, auto& value, const char* help) {
    option(name, value, help)->check(support::finite());
  };
  app.add_option("--alpha", settings.alpha,
                 "Of the adapter: its change is alpha / rank times B A; twice the rank by default")
      ->check(support::above_0());
  app.add_option("--average-every", settings.average_every,
                 "Gradient steps after which the average that is saved and evaluated takes the "
                 "weights in; 1, for GRPO 8 by default")
      ->check(support::at_least(1));
  number("--learning-rate", settings.learning_rate, "Of AdamW");
  const auto strength = [&](const char* name, auto& value, const char* help) {
    option(name, value, help)->check(support::above_0());
  };
  strength("--beta", settings.beta, "NFT: strength of the implicit branches");
  strength("--clip-range", settings.clip_range, "GRPO: clipping of the ratio");
  strength("--noise-level", settings.noise_level, "GRPO: strength of the sampler's noise");
  app.add_option("--sde", settings.sde,
                 "GRPO: the sampler's noise, that of Flow-GRPO, the default, or that of Flow-CPS: "
                 "flow or cps")
      ->check(CLI::IsMember({"flow", "cps"}));
  app.add_option("--kl", settings.kl,
                 "Weight of the KL term; 1e-4, for GRPO of Stable Diffusion 0.04, for NFT and GRPO "
                 "of FLUX.1 0 by default")
      ->check(support::at_least_0());
  count("--window", settings.window, "grpo-fast: steps with noise, from the first on");
  app.add_option(
         "--guidance", settings.guidance,
         "Guidance scale in collection and training; 1, for GRPO 4.5 by default; for FLUX.1 what "
         "it is told, 3.5")
      ->check(support::at_least_0());
  app.add_option("--autocast", settings.autocast,
                 "Compute in float16 or bfloat16 over a float32 base; float16 scales the loss")
      ->transform(CLI::CheckedTransformer(halves, CLI::ignore_case));
  app.add_flag("--recompute", settings.recompute,
               "Compute activations again instead of keeping them");
  count("--save-every", settings.save_every, "Epochs between adapters and checkpoints");
  count("--evaluate-every", settings.evaluate_every, "Epochs between evaluations");
  number_of("--evaluation-images", settings.evaluation_images, 1'000'000,
            "Images of an evaluation");
  number_of("--evaluation-steps", settings.evaluation_steps, 10'000,
            "Sampling steps of an evaluation");
  option("--seed", settings.seed, "Of everything that is drawn")->check(support::natural());
  number_of("--threads", settings.threads, 1024,
            "Threads of LibTorch; the same number gives the same bits");
  CLI::Option* resume =
      app.add_flag("--resume", settings.resume, "Go on from the newest checkpoint in the output")
          ->configurable(false);
  app.add_flag("--anew", settings.anew, "Replace the checkpoints of another run in the output")
      ->configurable(false)
      ->excludes(resume);
  support::add_run_file(app);
}

using Defaults = std::vector<std::pair<const char*, const char*>>;

/// What is small by default where the model is.
const Defaults tiny_defaults{{"--dtype", "float32"},
                             {"--t5-tokens", "20"},
                             {"--epochs", "4"},
                             {"--group", "4"},
                             {"--prompts-per-epoch", "2"},
                             {"--size", "64"},
                             {"--steps", "4"},
                             {"--rank", "4"},
                             {"--save-every", "2"},
                             {"--evaluate-every", "2"},
                             {"--evaluation-images", "4"},
                             {"--evaluation-steps", "4"}};
const Defaults sd3_defaults{{"--t5-tokens", "256"}};
/// As published trainers of FLUX.1 have it: flow_grpo, and Flow-Factory for NFT.
const Defaults flux_defaults{
    {"--rank", "64"}, {"--t5-tokens", "128"}, {"--evaluation-steps", "28"}};
const Defaults flux_grpo_defaults{{"--steps", "6"}, {"--noise-level", "0.9"}};
const Defaults flux_grpo_fast_defaults{
    {"--sde", "cps"}, {"--noise-level", "0.8"}, {"--clip-range", "1e-5"}, {"--window", "3"}};
const Defaults flux_nft_defaults{{"--group", "16"}, {"--steps", "8"}, {"--size", "384"}};

void take(CLI::App& app, const Defaults& defaults) {
  for (const auto& [option, value] : defaults) {
    if (app.count(option) == 0) app.get_option(option)->default_val(value);
  }
}

/// What is known when all options are.
void complete(Settings& settings, CLI::App& app, int ranks) {
  take(app, settings.model.is_flux() ? flux_defaults : sd3_defaults);
  if (settings.model.is_flux()) {
    take(app, settings.is_grpo() ? flux_grpo_defaults : flux_nft_defaults);
    if (settings.method == "grpo-fast") take(app, flux_grpo_fast_defaults);
  }
  support::text_to_image::expects_options_of_model(app, settings.model, settings.negative);
  const bool takes_sde = settings.method == "grpo" || settings.method == "grpo-fast";
  cf::expects(takes_sde || settings.sde == "flow", "--sde",
              "flow (cps is for the methods grpo and grpo-fast)", settings.sde);
  if (settings.model.tiny) take(app, tiny_defaults);
  if (settings.kl_weight() == 0 && !settings.takes_no_kl()) {
    throw cf::Error("--kl", "above 0 for the method " + settings.method, "0");
  }
  at::set_num_threads(settings.threads);
  settings.record = support::run_record(app, "finetune", ranks);
  auto& taken = settings.record["settings"];
  taken["kl"] = settings.kl_weight();
  taken["alpha"] = settings.lora_alpha();
  taken["average-every"] = settings.steps_of_average();
  taken["sde"] = settings.sde;
  if (settings.model.is_flux()) {
    taken["true-guidance"] = std::max(1.0, settings.model.true_guidance);
  }
  taken["guidance"] = settings.guidance_scale();
  taken["dtype"] = support::text_to_image::name_of(settings.model.dtype);
  if (settings.autocast) taken["autocast"] = support::text_to_image::name_of(*settings.autocast);
}

}  // namespace

int main(int argc, char** argv) try {
  const support::Ranks ranks(argc, argv);
  Settings settings;
  CLI::App app("Fine-tuning of Stable Diffusion 3, 3.5 or FLUX.1 by reinforcement learning.");
  add_options(app, settings);
  CLI11_PARSE(app, argc, argv);
  complete(settings, app, ranks.size());
  run(settings, ranks);
  return support::said("finetune");
} catch (const std::exception& failure) {
  return support::failed("finetune", failure);
}
