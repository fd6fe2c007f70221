// Packing, the scheduler, whole trajectories with embedded and with true guidance, the autoencoder.

#include <cmath>
#include <regex>

#include <contraflow/flux/model.hpp>
#include <contraflow/model/guidance.hpp>
#include <contraflow/network/vae.hpp>
#include <contraflow/network/vae_config.hpp>
#include <contraflow/solver/integrate.hpp>
#include <contraflow/solver/runge_kutta.hpp>

#include "parity_flux/report.hpp"

namespace parity {

namespace {

namespace flux = cf::flux;

// One unit in the last place of float32 at 1, and at 1000.
constexpr double unit = 1.2e-7;
constexpr double unit_of_timesteps = 1.3e-4;

Tensor tensor_of(const cf::TimeGrid& grid) { return at::tensor(grid.sigmas(), at::kDouble); }

flux::GridOptions grid_options(const Fixtures& fixtures, const std::string& name) {
  return flux::grid_options(cf::Settings(fixtures / ("scheduler/" + name + ".json")));
}

void compare_grid(Report& report, const std::string& label, Case& file, const cf::TimeGrid& grid) {
  const Tensor sigmas = tensor_of(grid);
  report.compare(label + " sigmas", sigmas, file["sigmas"], 0);
  report.state(label + " starts at 1", grid.sigmas().front() == 1, "to the last bit");
  const Tensor starts = sigmas.narrow(0, 0, sigmas.size(0) - 1).to(at::kFloat);
  if (!file.has("timesteps")) return;
  report.compare(label + " timesteps", starts * 1000, file["timesteps"], unit_of_timesteps);
}

int steps_of(Case& file) { return int(file["sigmas"].size(0)) - 1; }

void check_published_grid(const Fixtures& fixtures, Report& report, const std::string& model,
                          const std::string& name) {
  const std::string label = "scheduler/" + model + "_" + name;
  Case file(fixtures, label + ".safetensors");
  const flux::GridOptions options = grid_options(fixtures, model);
  std::int64_t tokens = 1;
  if (file.has("tokens")) {
    tokens = file["tokens"].item<std::int64_t>();
    const Tensor mu = at::scalar_tensor(flux::mu(tokens, options), at::kDouble);
    report.compare(label + " mu", mu, file["mu"], 1e-12);
  }
  compare_grid(report, label, file, flux::grid(steps_of(file), tokens, options));
  file.expect_complete();
}

// The grid of two published trainers: a fixed shift, which stands in the file's name.
void check_fixed_grid(const Fixtures& fixtures, Report& report, const std::string& name) {
  const std::string label = "scheduler/fixed_shift" + name;
  Case file(fixtures, label + ".safetensors");
  const double shift = std::stod(name.substr(0, name.find('_')));
  const auto grid = flux::grid(steps_of(file), 1, {.use_dynamic_shifting = false, .shift = shift});
  const Tensor sigmas = tensor_of(grid);
  // They compute u otherwise, and a sigma in other roundings.
  report.compare(label + " sigmas", sigmas, file["sigmas"], 2 * unit);
  report.compare(label + " timesteps_truncated",
                 (sigmas.narrow(0, 0, sigmas.size(0) - 1).to(at::kFloat) * 1000).to(at::kLong),
                 file["timesteps_truncated"], 0);
  file.expect_complete();
}

std::shared_ptr<cf::Vae> vae_of(const Fixtures& fixtures) {
  auto vae = std::make_shared<cf::Vae>(cf::vae_options(fixtures.config("vae")));
  cf::load_weights(*vae, cf::vae_weights(fixtures.weights("vae")), "vae");
  return vae;
}

cf::TextCondition first_row(const cf::TextCondition& prompts) {
  return {prompts.sequence.narrow(0, 0, 1), prompts.pooled.narrow(0, 0, 1)};
}

void check_trajectory(const Fixtures& fixtures, Report& report, const std::string& name) {
  const at::NoGradGuard no_gradient;
  const std::string label = "sampling/" + name;
  Case file(fixtures, label + ".safetensors");
  const bool is_schnell = name.starts_with("schnell");
  const flux::Model model(fixtures.network(is_schnell ? "transformer_schnell" : "transformer"),
                          file["guidance_scale"].item<double>());
  const cf::TextCondition prompt{file["prompt_embeds"], file["pooled_prompt_embeds"]};
  const double scale = file["true_cfg_scale"].item<double>();
  const cf::TextCondition negative =
      scale > 1
          ? cf::TextCondition{file["negative_prompt_embeds"], file["negative_pooled_prompt_embeds"]}
          : prompt;
  cf::Guided guided(model, first_row(negative), scale);
  const auto velocity = [&](const Tensor& x, double sigma) {
    return cf::velocity_of(guided, x, at::full({x.size(0)}, sigma, at::kFloat), prompt);
  };
  const Tensor noise = file["noise"];
  const std::int64_t tokens = flux::token_count(noise.sizes().slice(1).vec());
  const auto grid =
      flux::grid(steps_of(file), tokens, grid_options(fixtures, is_schnell ? "schnell" : "dev"));
  compare_grid(report, label, file, grid);
  std::vector<Tensor> states{noise};
  const auto keep = [&](const auto&, const Tensor&, const Tensor& next, const auto&) {
    states.push_back(next);
  };
  cf::Generator generator = cf::seeded(0);
  const Tensor last = cf::integrate(cf::Euler{}, velocity, noise, grid, generator, keep);
  for (std::size_t i = 0; i < states.size(); ++i) {
    const Tensor wanted = file["latents"][std::int64_t(i)];
    report.compare(label + " state " + std::to_string(i), flux::packed(states[i]), wanted,
                   allowed(wanted, 3e-5));
  }
  report.compare(label + " against float64", flux::packed(last), file["latents_float64"],
                 allowed(file["latents_float64"], 3e-5) + fixtures.noise(label));
  report.compare(label + " image", vae_of(fixtures)->decode(last), file["image"], 1e-4);
  file.expect_complete();
}

void check_size(Report& report, const cf::VaeOptions& vae, const nlohmann::json& size) {
  const auto number = [&](const char* key) { return size.at(key).get<std::int64_t>(); };
  const std::string label =
      "packing/" + std::to_string(number("height")) + "x" + std::to_string(number("width"));
  const auto shape = flux::latent_shape(number("height"), number("width"), vae);
  const bool fits = shape[0] == vae.latent_channels && shape[1] == number("latent_height") &&
                    shape[2] == number("latent_width") &&
                    flux::token_count(shape) == number("tokens");
  report.state(label + " shape", fits, cf::shown(at::IntArrayRef(shape)));
  report.compare(label + " mu", at::scalar_tensor(flux::mu(number("tokens")), at::kDouble),
                 at::scalar_tensor(size.at("mu").get<double>(), at::kDouble), 1e-12);
}

}  // namespace

void check_packing(const Fixtures& fixtures, Report& report) {
  report.section("packing", [&] {
    for (const std::string& name : fixtures.names("packing", "")) {
      const std::string label = "packing/" + name;
      Case file(fixtures, label + ".safetensors");
      const Tensor& latents = file["latents"];
      const std::int64_t rows = latents.size(2) / 2, columns = latents.size(3) / 2;
      report.compare(label + " packed", flux::packed(latents), file["packed"], 0);
      report.compare(label + " unpacked", flux::unpacked(file["packed"], rows, columns), latents,
                     0);
      report.compare(label + " img_ids", flux::image_positions(rows, columns), file["img_ids"], 0);
      file.expect_complete();
    }
    const nlohmann::json sizes = cf::read_json(fixtures / "packing/sizes.json");
    if (!sizes.is_array() || sizes.empty()) throw cf::Error("packing/sizes.json", "sizes", "none");
    // The listed latents are an eighth of the pixels, as with the published autoencoder.
    for (const auto& size : sizes) check_size(report, cf::VaeOptions{}, size);
  });
}

void check_scheduler(const Fixtures& fixtures, Report& report) {
  report.section("scheduler", [&] {
    for (const std::string model : {"dev", "schnell"}) {
      for (const std::string& name : fixtures.names("scheduler", model + "_")) {
        check_published_grid(fixtures, report, model, name);
      }
    }
    for (const std::string& name : fixtures.names("scheduler", "fixed_shift")) {
      check_fixed_grid(fixtures, report, name);
    }
  });
}

void check_sampling(const Fixtures& fixtures, Report& report) {
  report.section("sampling", [&] {
    for (const std::string& name : fixtures.names("sampling", "")) {
      report.section("sampling/" + name, [&] { check_trajectory(fixtures, report, name); });
    }
  });
}

void check_vae(const Fixtures& fixtures, Report& report) {
  report.section("vae", [&] {
    const at::NoGradGuard no_gradient;
    Case file(fixtures, "vae/decode.safetensors");
    const auto vae = vae_of(fixtures);
    const cf::VaeOptions& options = vae->options();
    const auto compare = [&](const char* name, const Tensor& got) {
      report.compare(std::string("vae ") + name, got, file[name], allowed(file[name], 3e-5));
    };
    compare("vae_input", file["latents"] / options.scaling_factor + options.shift_factor);
    compare("decoded", vae->decoded(file["vae_input"]));
    compare("image", vae->decode(file["latents"]));
    compare("encoded_moments", vae->moments(file["image"]));
    file.expect_complete();
  });
}

}  // namespace parity
