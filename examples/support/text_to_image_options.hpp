#pragma once

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <contraflow/flux/random_flux_folder.hpp>
#include <contraflow/io/image.hpp>
#include <contraflow/pipeline/lora_files.hpp>
#include <contraflow/sd3/random_folder.hpp>

#include "files.hpp"
#include "html.hpp"
#include "options.hpp"
#include "text_to_image.hpp"

namespace support::text_to_image {

namespace cf = contraflow;

/// What both programs for Stable Diffusion and FLUX.1 ask of their user.
struct Model {
  std::filesystem::path folder;
  bool tiny = false, tiny_flux = false;
  at::ScalarType dtype = at::kBFloat16;
  std::string device = "cpu";
  std::optional<std::int64_t> t5_tokens;  ///< unset: as many as is usual for the model
  bool without_t5 = false, int8 = false;
  double true_guidance = 1;

  cf::Placement placement() const { return {.dtype = dtype, .device = at::Device(device)}; }
  PromptSettings prompts() const { return {t5_tokens, without_t5, placement()}; }
  /// @param guidance that FLUX.1 is told
  TransformerSettings transformer(double guidance, bool recompute = false) const {
    using cf::pipeline::BlockWeights;
    return {placement(), int8 ? BlockWeights::int8 : BlockWeights::as_placed, guidance, recompute};
  }
  /// Found out before a tiny one is written.
  bool is_flux() const { return tiny ? tiny_flux : support::is_flux(folder); }
};

/// Names of precisions on the command line.
inline const std::map<std::string, at::ScalarType>& dtypes() {
  static const std::map<std::string, at::ScalarType> names{
      {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}};
  return names;
}
inline std::string name_of(at::ScalarType dtype) {
  for (const auto& [name, one] : dtypes()) {
    if (one == dtype) return name;
  }
  return c10::toString(dtype);
}

inline void add_options(CLI::App& app, Model& model) {
  app.add_option("--true-guidance", model.true_guidance,
                 "FLUX.1: guidance by a second pass with the negative prompt; at most 1: none, the "
                 "default")
      ->check(finite());
  app.add_option("--model", model.folder,
                 "Stable Diffusion 3, 3.5 or FLUX.1 as downloaded, in the layout of diffusers");
  app.add_flag("--tiny", model.tiny,
               "Make a tiny model with random weights in the output folder, and use it");
  app.add_flag_callback(
      "--tiny-flux", [&model] { model.tiny = model.tiny_flux = true; }, "The same of FLUX.1");
  app.add_option("--dtype", model.dtype, "Precision of the networks: float32, bfloat16 or float16")
      ->transform(CLI::CheckedTransformer(dtypes(), CLI::ignore_case));
  app.add_flag("--int8", model.int8,
               "Keep the weights of the transformer's blocks in 8 bits, rounded as they are read");
  app.add_option("--device", model.device, "Where the networks run, such as cpu or cuda")
      ->capture_default_str();
  app.add_option(
         "--t5-tokens", model.t5_tokens,
         "Tokens that T5 sees of a prompt; 256 by default, for FLUX.1 [dev] 512, where it is "
         "fine-tuned 128")
      ->check(CLI::Range(1, 512));
  app.add_flag("--without-t5", model.without_t5,
               "Leave the third text encoder of Stable Diffusion out");
}

/// Options that fit the model: a second pass is asked for by others for one than for the other.
inline void expects_options_of_model(const CLI::App& app, const Model& model,
                                     const std::string& negative_prompt) {
  cf::expects(!model.tiny || model.folder.empty(), "--model", "nothing beside --tiny",
              model.folder.string());
  const bool negative = app.count("--negative") > 0, second = model.true_guidance > 1;
  if (!model.is_flux()) {
    cf::expects(app.count("--true-guidance") == 0, "--true-guidance",
                "a model of FLUX.1 (here --guidance is that of a second pass)",
                model.true_guidance);
    return;
  }
  cf::expects(second || !negative, "--negative", "--true-guidance above 1 beside it, for FLUX.1",
              negative_prompt);
  cf::expects(negative || !second, "--true-guidance", "--negative beside it, if only \"\"",
              model.true_guidance);
}

/// An adapter that is asked for.
struct Adapter {
  std::filesystem::path path;
  bool without_text_encoders = false;

  bool is_given() const { return !path.empty(); }
  cf::LoraWeights read() const {
    return cf::read_lora(
        path, without_text_encoders ? cf::EncoderParts::leave_out : cf::EncoderParts::refuse);
  }
};

inline void add_options(CLI::App& app, Adapter& adapter, const char* help) {
  app.add_option("--lora", adapter.path, help);
  app.add_flag("--lora-without-text-encoders", adapter.without_text_encoders,
               "Leave out what an adapter has for text encoders, which is refused otherwise");
}

/// The folder asked for; a tiny one is written where it was asked for.
inline std::filesystem::path folder_of(const Model& model, const std::filesystem::path& output) {
  if (model.tiny) return output / "tiny-model";
  if (model.folder.empty()) throw cf::Error("--model", "a folder, or --tiny", "neither");
  return model.folder;
}
/// Writes the model with random weights, where that is asked for.
inline void prepare(const Model& model, const std::filesystem::path& output) {
  if (!model.tiny) return;
  const std::filesystem::path folder = folder_of(model, output);
  if (model.tiny_flux) return cf::flux::write_random_folder(folder, cf::flux::tiny_folder());
  cf::sd3::write_random_folder(folder, cf::sd3::tiny_folder());
}
inline Folder opened(const Model& model, const std::filesystem::path& output) {
  return Folder(folder_of(model, output));
}

inline void show(const cf::Warning& warning) {
  std::fprintf(stderr, "warning: %s\n", warning.message.c_str());
}

/// A page with pictures and what they were made for.
inline void write_sheet(const std::filesystem::path& path, const std::string& title,
                        const std::vector<std::pair<std::string, std::string>>& pictures) {
  std::string body;
  for (const auto& [file, caption] : pictures) {
    body += html::element("figure", "<img src=\"" + html::escaped(file) + "\" alt=\"\">" +
                                        html::element("figcaption", html::escaped(caption)));
  }
  write_text(path, html::page(title, html::element("h1", html::escaped(title)) + body));
}

}  // namespace support::text_to_image
