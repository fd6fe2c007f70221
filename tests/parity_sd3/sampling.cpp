// The scheduler, whole trajectories with and without guidance, and the autoencoder.

#include <regex>

#include <contraflow/model/guidance.hpp>
#include <contraflow/model/mmdit.hpp>
#include <contraflow/network/vae.hpp>
#include <contraflow/network/vae_config.hpp>
#include <contraflow/sd3/config.hpp>
#include <contraflow/solver/integrate.hpp>
#include <contraflow/solver/runge_kutta.hpp>

#include "parity_sd3/report.hpp"

namespace parity {

namespace {

Tensor tensor_of(const cf::TimeGrid& grid) {
  std::vector<double> sigmas;
  for (std::size_t i = 0; i < grid.steps(); ++i) sigmas.push_back(grid.step(i).from);
  sigmas.push_back(grid.step(grid.steps() - 1).to);
  return at::tensor(sigmas, at::kDouble);
}

// One unit in the last place of float32 at 1. A timestep is rounded twice: as sigma, and
// multiplied.
constexpr double unit = 1.2e-7;
constexpr double unit_of_timesteps = 2 * 1000 * unit;

void check_grid(Report& report, const std::string& name, Case& file, const cf::TimeGrid& grid) {
  const Tensor sigmas = tensor_of(grid);
  report.compare(name + " sigmas", sigmas, file["sigmas"], unit);
  const Tensor starts = sigmas.narrow(0, 0, sigmas.size(0) - 1);
  report.compare(name + " timesteps", starts * 1000, file["timesteps"], unit_of_timesteps);
  if (file.has("timesteps_truncated")) {
    report.compare(name + " timesteps_truncated", (starts.to(at::kFloat) * 1000).to(at::kLong),
                   file["timesteps_truncated"], 0);
  }
  file.expect_complete();
}

void check_train_table(const Fixtures& fixtures, Report& report) {
  Case file(fixtures, "scheduler/train_table.safetensors");
  const std::int64_t count = file["sigmas"].size(0);
  std::vector<double> sigmas;
  for (std::int64_t k = count; k >= 1; --k) {
    sigmas.push_back(cf::shift_sigma(double(k) / double(count), cf::Sd3GridOptions{}.shift));
  }
  const Tensor table = at::tensor(sigmas, at::kDouble);
  // The published table is computed in float32, in several roundings.
  report.compare("scheduler train_table sigmas", table, file["sigmas"], 2 * unit);
  report.compare("scheduler train_table timesteps", table * 1000, file["timesteps"],
                 unit_of_timesteps);
  file.expect_complete();
}

void check_grid_file(const Fixtures& fixtures, Report& report, const std::string& name) {
  static const std::regex shifted("shift([0-9.]+)_steps([0-9]+)"), dynamic("dynamic_steps([0-9]+)");
  Case file(fixtures, "scheduler/" + name + ".safetensors");
  std::smatch found;
  if (std::regex_match(name, found, shifted)) {
    const auto grid = cf::sd3_grid(std::stoi(found[2]), {.shift = std::stod(found[1])});
    check_grid(report, "scheduler " + name, file, grid);
  } else if (std::regex_match(name, found, dynamic)) {
    // 1024 tokens are 512 x 512 pixels.
    const double mu = cf::dynamic_shift(1024);
    report.compare("scheduler " + name + " mu", at::scalar_tensor(mu, at::kDouble), file["mu"],
                   1e-12);
    const auto grid = cf::dynamic_grid(std::stoi(found[1]), file["mu"].item<double>());
    check_grid(report, "scheduler " + name, file, grid);
  } else {
    throw cf::Error("scheduler", "known files", name);
  }
}

cf::Vae vae_of(const Fixtures& fixtures, cf::VaeParts parts = cf::VaeParts::both) {
  cf::Vae vae(cf::vae_options(fixtures.config("vae")), parts);
  cf::load_weights(vae, cf::vae_weights(fixtures.weights("vae"), parts), "vae");
  return vae;
}

void check_trajectory(const Fixtures& fixtures, Report& report, const std::string& name) {
  const at::NoGradGuard no_gradient;
  const std::string label = "sampling/" + name;
  Case file(fixtures, label + ".safetensors");
  auto net = std::make_shared<cf::MmditNetwork>(cf::sd3::mmdit_options(fixtures.config("mmdit")));
  cf::load_weights(*net, fixtures.weights("mmdit"), "mmdit");
  const auto row = [&](const char* key) { return file[key].narrow(0, 0, 1); };
  const cf::TextCondition prompt{file["prompt_embeds"], file["pooled_prompt_embeds"]};
  const cf::TextCondition negative{row("negative_prompt_embeds"),
                                   row("negative_pooled_prompt_embeds")};
  cf::Guided guided(cf::Mmdit(net), negative, std::stod(name.substr(4)));
  const auto velocity = [&](const Tensor& x, double sigma) {
    return cf::velocity_of(guided, x, at::full({x.size(0)}, sigma, at::kFloat), prompt);
  };
  const Tensor& wanted = file["latents"];
  const cf::TimeGrid grid = cf::sd3_grid(int(wanted.size(0)) - 1);
  report.compare(label + " sigmas", tensor_of(grid), file["sigmas"], unit);
  std::vector<Tensor> states{file["noise"]};
  const auto keep = [&](const auto&, const Tensor&, const Tensor& next, const auto&) {
    states.push_back(next);
  };
  cf::Generator generator = cf::seeded(0);
  const Tensor last = cf::integrate(cf::Euler{}, velocity, file["noise"], grid, generator, keep);
  for (std::size_t i = 0; i < states.size(); ++i) {
    const Tensor state = wanted[std::int64_t(i)];
    report.compare(label + " state " + std::to_string(i), states[i], state,
                   fixtures.allowed(state, label));
  }
  // The decoder adds its noise to that of the latents.
  const double allowed = 10 * (fixtures.noise("vae/decode") + fixtures.noise(label));
  report.compare(label + " image", vae_of(fixtures, cf::VaeParts::decoder).decode(last),
                 file["image"], allowed);
  file.expect_complete();
}

}  // namespace

void check_scheduler(const Fixtures& fixtures, Report& report) {
  report.section("scheduler", [&] {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(fixtures / "scheduler")) {
      names.insert(entry.path().stem().string());
    }
    if (names.empty()) throw cf::Error("scheduler", "files", "none");
    for (const std::string& name : names) {
      if (name == "train_table") {
        check_train_table(fixtures, report);
      } else {
        check_grid_file(fixtures, report, name);
      }
    }
  });
}

void check_sampling(const Fixtures& fixtures, Report& report) {
  report.section("sampling", [&] {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(fixtures / "sampling")) {
      names.insert(entry.path().stem().string());
    }
    if (names.empty()) throw cf::Error("sampling", "files", "none");
    for (const std::string& name : names) {
      if (!name.starts_with("cfg_")) throw cf::Error("sampling", "files cfg_*", name);
      report.section("sampling/" + name, [&] { check_trajectory(fixtures, report, name); });
    }
  });
}

void check_vae(const Fixtures& fixtures, Report& report) {
  report.section("vae", [&] {
    const at::NoGradGuard no_gradient;
    Case file(fixtures, "vae/decode.safetensors");
    const cf::Vae vae = vae_of(fixtures);
    const Tensor& code = file["vae_input"];
    const auto compare = [&](const char* name, const Tensor& got) {
      report.compare(std::string("vae ") + name, got, file[name],
                     fixtures.allowed(file[name], "vae/decode"));
    };
    const Tensor first = part<cf::Conv2d>(vae, "decoder.conv_in").forward(code);
    compare("act/conv_in", first);
    compare("act/mid_block", part<cf::detail::VaeMiddle>(vae, "decoder.mid_block").forward(first));
    compare("decoded", vae.decoded(code));
    compare("image", vae.decode(file["latents"]));
    compare("image", vae.decode(file["latents"], 2));
    compare("encoded_moments", vae.moments(file["image"]));
    const auto& options = vae.options();
    const Tensor mean = file["encoded_moments"].narrow(1, 0, options.latent_channels);
    const Tensor latents = (mean - options.shift_factor) * options.scaling_factor;
    report.compare("vae encode", vae.encode(file["image"]), latents, fixtures.allowed(latents));
    file.expect_complete();
  });
}

}  // namespace parity
