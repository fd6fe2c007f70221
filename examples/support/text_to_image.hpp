#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <contraflow/flux/encode_flux_prompts.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/sd3/encode_prompts.hpp>
#include <contraflow/sd3/latent_shape.hpp>

namespace support {

namespace cf = contraflow;

/// The transformer of one model or the other, as one FlowModel: a program is compiled once.
class Transformer {
 public:
  explicit Transformer(std::variant<cf::Mmdit, cf::flux::Model> model) : model_(std::move(model)) {}

  cf::Tensor operator()(const cf::Tensor& x_t, const cf::Tensor& t,
                        const cf::TextCondition& condition) {
    return std::visit([&](auto& model) { return model(x_t, t, condition); }, model_);
  }
  std::shared_ptr<torch::nn::Module> module() const {
    return std::visit([](const auto& model) { return model.module(); }, model_);
  }
  Transformer clone() const {
    return std::visit([](const auto& model) { return Transformer(model.clone()); }, model_);
  }

 private:
  std::variant<cf::Mmdit, cf::flux::Model> model_;
};

/// How prompts are encoded, whatever the model.
struct PromptSettings {
  std::optional<std::int64_t> t5_tokens;  ///< unset: as many as is usual for the model
  bool without_t5 = false;
  cf::Placement placement = {};
};

/// How the transformer is loaded, whatever the model.
struct TransformerSettings {
  cf::Placement placement = {};
  cf::pipeline::BlockWeights blocks = cf::pipeline::BlockWeights::as_placed;
  double guidance = 3.5;  ///< that FLUX.1 is told
  bool recompute = false;
};

/// Whether the folder of a model is one of FLUX.1: by its model_index.json, or by its transformer
/// where that names another pipeline or is missing.
inline bool is_flux(const std::filesystem::path& folder) {
  const auto class_in = [&](const std::filesystem::path& file) {
    if (folder.empty() || !std::filesystem::is_regular_file(file)) return std::string();
    return cf::Settings(file).text("_class_name", "");
  };
  const std::string pipeline = class_in(folder / "model_index.json");
  if (pipeline == "FluxPipeline") return true;
  if (pipeline == "StableDiffusion3Pipeline") return false;
  return class_in(folder / "transformer" / "config.json") == "FluxTransformer2DModel";
}

/// A folder of Stable Diffusion 3 or 3.5, or of FLUX.1.
class Folder {
 public:
  using Shape = std::vector<std::int64_t>;

  explicit Folder(const std::filesystem::path& path) : folder_(opened(path)) {}

  Shape latent_shape(std::int64_t height, std::int64_t width) const {
    const cf::VaeOptions vae = common().autoencoder_options();
    if (of_flux() != nullptr) return cf::flux::latent_shape(height, width, vae);
    return cf::sd3::latent_shape(height, width, vae, of_sd3().transformer_options());
  }
  /// What the model's own pipeline takes: few for FLUX.1 [schnell].
  int usual_steps() const {
    const auto* flux = of_flux();
    return flux == nullptr ? 40 : flux->transformer_options().guidance_embeds ? 28 : 4;
  }
  cf::TimeGrid grid(int steps, const Shape& shape) const {
    if (const auto* flux = of_flux()) return flux->grid(steps, shape);
    return of_sd3().grid(steps);
  }
  /// Whether the transformer is told a guidance scale, or has a second pass: not FLUX.1 [schnell].
  bool is_told_guidance() const {
    const auto* flux = of_flux();
    return flux == nullptr || flux->transformer_options().guidance_embeds;
  }
  /// Throws Error where something is missing or damaged that is needed late.
  void look_through(int steps, const Shape& shape) const {
    grid(steps, shape);
    for (const char* component : {"transformer", "vae"}) {
      cf::read_weights(common().folder_of(component), "diffusion_pytorch_model");
    }
  }
  Transformer transformer(const TransformerSettings& settings) const {
    const auto& [placement, blocks, guidance, recompute] = settings;
    if (const auto* flux = of_flux()) {
      return Transformer(flux->transformer(placement, guidance, {.recompute = recompute}, blocks));
    }
    return Transformer(of_sd3().transformer(placement, {.recompute = recompute}, blocks));
  }
  std::shared_ptr<cf::Vae> vae(const cf::Placement& placement) const {
    return common().vae(placement);
  }
  /// Calls @p f with the folder and its own options of prompts.
  template <class F>
  auto with_prompts(const PromptSettings& settings, F&& f) const {
    const cf::Placement& placement = settings.placement;
    if (const auto* flux = of_flux()) {
      cf::expects(!settings.without_t5, "--without-t5", "off, for FLUX.1", "on");
      const std::int64_t most = flux->most_t5_tokens();
      if (settings.t5_tokens.value_or(most) > most) {
        throw cf::Error("--t5-tokens", "at most " + cf::shown(most) + " for this model",
                        cf::shown(*settings.t5_tokens));
      }
      return f(*flux, cf::flux::PromptOptions{
                          .t5_tokens = settings.t5_tokens, .clip = placement, .t5 = placement});
    }
    return f(of_sd3(), cf::sd3::PromptOptions{.t5_tokens = settings.t5_tokens.value_or(256),
                                              .with_t5 = !settings.without_t5 && of_sd3().has_t5(),
                                              .clip = placement,
                                              .t5 = placement});
  }

 private:
  using Either = std::variant<cf::sd3::Folder, cf::flux::Folder>;
  static Either opened(const std::filesystem::path& path) {
    if (is_flux(path)) return cf::flux::Folder(path);
    return cf::sd3::Folder(path);
  }
  const cf::flux::Folder* of_flux() const { return std::get_if<cf::flux::Folder>(&folder_); }
  const cf::sd3::Folder& of_sd3() const { return std::get<cf::sd3::Folder>(folder_); }
  const cf::pipeline::ModelFolder& common() const {
    return std::visit([](const auto& f) -> const cf::pipeline::ModelFolder& { return f; }, folder_);
  }

  Either folder_;
};

}  // namespace support
