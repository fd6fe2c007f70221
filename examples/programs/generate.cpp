// Images from prompts by Stable Diffusion 3, 3.5 or FLUX.1: a folder of weights in, PNG files out.
//
//   generate --model stable-diffusion-3.5-medium "a photo of a cat" "a watercolour of a fox"
//   generate --tiny        a tiny model with random weights, to see the whole path at once

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <contraflow/io/contact_sheet.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/png.hpp>
#include <contraflow/pipeline/image_generation.hpp>
#include <contraflow/pipeline/lora_files.hpp>
#include <contraflow/reward/records.hpp>
#include <contraflow/solver/runge_kutta.hpp>
#include <contraflow/solver/sde.hpp>

#include "support/options.hpp"
#include "support/phases.hpp"
#include "support/progress.hpp"
#include "support/text_to_image_options.hpp"

namespace {

namespace cf = contraflow;
namespace fs = std::filesystem;

struct Settings {
  support::text_to_image::Model model;
  std::vector<std::string> prompts;
  support::text_to_image::Adapter lora;
  fs::path prompt_file, output = "out/generate";
  std::string negative, solver = "euler";
  std::optional<int> steps;
  int images = 1;
  std::int64_t batch = 1, height = 1024, width = 1024;
  std::optional<double> guidance;
  double lora_scale = 1;
  std::uint64_t seed = 0;

  double guidance_scale() const { return guidance.value_or(model.is_flux() ? 3.5 : 4.5); }
  /// FLUX.1 is told the guidance scale; a second pass is Stable Diffusion's way.
  double two_pass_scale() const { return model.is_flux() ? model.true_guidance : guidance_scale(); }
};

/// Calls @p f with the solver of a name.
template <class F>
cf::Tensor with_solver(const std::string& name, F&& f) {
  if (name == "heun") return f(cf::Heun{});
  if (name == "dpm2") return f(cf::DpmSolver<2>{});
  if (name == "dpm3") return f(cf::DpmSolver<3>{});
  if (name == "flow-sde") return f(cf::FlowSde{});
  if (name == "cps") return f(cf::Cps{});
  return f(cf::DpmSolver<1>{});
}

/// Draws a bar over all steps of all batches.
class Bar {
 public:
  explicit Bar(int total) : progress_(total, "steps") {}
  template <class State>
  void operator()(const cf::Step&, const cf::Tensor&, const cf::Tensor&, const State&) {
    progress_.advance("");
  }
  void finish() { progress_.finish(); }

 private:
  support::Progress progress_;
};

cf::Tensor latents_of(const Settings& settings, const support::Folder& folder,
                      const std::optional<cf::LoraWeights>& adapter,
                      const cf::TextCondition& encoded, std::int64_t prompts) {
  const auto model = folder.transformer(settings.model.transformer(settings.guidance_scale()));
  cf::Lora lora(model.module());
  if (adapter) {
    lora.add("adapter", *adapter, settings.lora.path.string());
    lora.set_scale("adapter", settings.lora_scale);
    lora.use("adapter");
  }
  const auto shape = folder.latent_shape(settings.height, settings.width);
  const std::int64_t count = prompts * settings.images;
  const cf::Tensor noise =
      cf::pipeline::image_noise(count, shape, settings.seed).to(at::Device(settings.model.device));
  const cf::Tensor prompt = at::arange(prompts).repeat_interleave(settings.images);
  const auto negative = cf::select(encoded, at::full({1}, prompts, at::kLong));
  const int steps = settings.steps.value_or(folder.usual_steps());
  const cf::TimeGrid grid = folder.grid(steps, shape);
  const auto batches = int((count + settings.batch - 1) / settings.batch);
  cf::Generator generator = cf::seeded(settings.seed);
  Bar bar(steps * batches);
  std::vector<cf::Tensor> latents;
  for (std::int64_t first = 0; first < count; first += settings.batch) {
    const std::int64_t last = std::min(count, first + settings.batch);
    const auto condition = cf::select(encoded, prompt.slice(0, first, last));
    latents.push_back(with_solver(settings.solver, [&](const auto& solver) {
      return cf::pipeline::generate(model, noise.slice(0, first, last), condition, negative,
                                    settings.two_pass_scale(), grid, solver, generator, bar);
    }));
  }
  bar.finish();
  const cf::Tensor all = at::cat(latents);
  cf::expects(all.isfinite().all().item<bool>(), "latents",
              "finite numbers (float16 may not hold them: --dtype bfloat16)", "NaN or infinity");
  return all;
}

void write_images(const Settings& settings, const cf::Vae& vae, const cf::Tensor& latents,
                  const std::vector<std::string>& prompts) {
  std::vector<cf::Tensor> images;
  std::vector<std::pair<std::string, std::string>> pictures;
  support::Progress progress(int(latents.size(0)), "images");
  for (std::int64_t i = 0; i < latents.size(0); ++i) {
    const cf::Tensor image = vae.decode(latents.narrow(0, i, 1))[0].to(at::kCPU);
    char name[32];
    std::snprintf(name, sizeof(name), "image-%03d.png", int(i));
    cf::write_png(settings.output / name, image);
    images.push_back(image);
    pictures.emplace_back(name, prompts[std::size_t(i / settings.images)]);
    progress.advance(name);
  }
  progress.finish();
  cf::write_png(settings.output / "contact_sheet.png", cf::contact_sheet(images, 4));
  support::text_to_image::write_sheet(settings.output / "contact_sheet.html", "Images", pictures);
}

void run(const Settings& settings) {
  support::Phases phases;
  cf::make_folder(settings.output);
  std::vector<std::string> prompts = settings.prompts;
  if (!settings.prompt_file.empty()) {
    for (std::string& caption : cf::captions_of(cf::read_records(settings.prompt_file))) {
      prompts.push_back(std::move(caption));
    }
  }
  if (prompts.empty() && settings.model.tiny) prompts = {"a photo of a cat", "two red circles"};
  if (prompts.empty()) throw cf::Error("prompts", "at least one, or --prompts FILE", "none");

  support::text_to_image::prepare(settings.model, settings.output);
  const support::Folder folder = support::text_to_image::opened(settings.model, settings.output);
  // Faults are found now, not after the text encoders.
  folder.look_through(settings.steps.value_or(folder.usual_steps()),
                      folder.latent_shape(settings.height, settings.width));
  folder.with_prompts(settings.model.prompts(), [](const auto&, const auto&) {});
  std::optional<cf::LoraWeights> adapter;
  if (settings.lora.is_given()) adapter = settings.lora.read();
  if (settings.guidance && !folder.is_told_guidance()) {
    phases.say("--guidance changes nothing: FLUX.1 [schnell] is told none");
  }
  phases.begin("encoding prompts");
  std::vector<std::string> captions = prompts;
  captions.push_back(settings.negative);
  const auto encode = [&](const auto& of_model, const auto& options) {
    return encode_prompts(of_model, captions, options, support::text_to_image::show);
  };
  const cf::TextCondition encoded = folder.with_prompts(settings.model.prompts(), encode);
  phases.begin("generating latents");
  const cf::Tensor latents =
      latents_of(settings, folder, adapter, encoded, std::int64_t(prompts.size()));
  phases.begin("decoding images");
  const auto vae = folder.vae({.dtype = at::kFloat, .device = at::Device(settings.model.device)});
  write_images(settings, *vae, latents, prompts);
  std::cout << phases.table().text() << latents.size(0) << " images in " << settings.output.string()
            << "; open contact_sheet.html\n";
}

}  // namespace

int main(int argc, char** argv) try {
  Settings settings;
  CLI::App app("Images from prompts by Stable Diffusion 3, 3.5 or FLUX.1.");
  support::text_to_image::add_options(app, settings.model);
  app.add_option("prompt", settings.prompts, "Prompts, each in quotes");
  app.add_option("--prompts", settings.prompt_file, "File with a prompt a line");
  app.add_option("--negative", settings.negative, "What the images should not show");
  app.add_option("--steps", settings.steps,
                 "Sampling steps; 40 by default, for FLUX.1 28, for [schnell] 4")
      ->check(support::at_least(1));
  app.add_option("--guidance", settings.guidance,
                 "Guidance scale, 4.5 by default, at most 1: none; for FLUX.1 what it is told, 3.5")
      ->check(support::finite());
  app.add_option("--solver", settings.solver, "euler, heun, dpm2, dpm3, flow-sde or cps")
      ->check(CLI::IsMember({"euler", "heun", "dpm2", "dpm3", "flow-sde", "cps"}))
      ->capture_default_str();
  app.add_option("--height", settings.height, "Pixels, a multiple of 16; FLUX.1 rounds down to one")
      ->check(support::at_least(1))
      ->capture_default_str();
  app.add_option("--width", settings.width, "Pixels, a multiple of 16; FLUX.1 rounds down to one")
      ->check(support::at_least(1))
      ->capture_default_str();
  app.add_option("--images", settings.images, "Images a prompt")
      ->check(support::at_least(1))
      ->capture_default_str();
  app.add_option("--batch", settings.batch, "Images that are generated together")
      ->check(support::at_least(1))
      ->capture_default_str();
  app.add_option("--seed", settings.seed, "Of the noise")
      ->check(support::natural())
      ->capture_default_str();
  support::text_to_image::add_options(app, settings.lora,
                                      "Adapter: a folder of peft or diffusers, or a file");
  app.add_option("--lora-scale", settings.lora_scale, "Strength of the adapter")
      ->check(support::finite())
      ->capture_default_str();
  app.add_option("--output", settings.output, "Folder for the images")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (settings.model.tiny) {
    const auto unless_given = [&](const char* option, auto& value, auto tiny) {
      if (app.count(option) == 0) value = tiny;
    };
    unless_given("--dtype", settings.model.dtype, at::kFloat);
    unless_given("--steps", settings.steps, std::optional(4));
    unless_given("--height", settings.height, std::int64_t{64});
    unless_given("--width", settings.width, std::int64_t{64});
    unless_given("--t5-tokens", settings.model.t5_tokens, std::optional(std::int64_t{20}));
  }
  support::text_to_image::expects_options_of_model(app, settings.model, settings.negative);
  run(settings);
  return support::said("generate");
} catch (const std::exception& failure) {
  return support::failed("generate", failure);
}
