// A folder of random weights with the names, shapes, precision and files of Stable Diffusion 3 or
// 3.5, about 16 GB in bfloat16 for 3.5 Medium, or of FLUX.1, 34 GB: to try memory and speed without
// the real ones. Weights are written one by one and never held together.

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include <contraflow/flux/random_flux_folder.hpp>
#include <contraflow/sd3/random_folder.hpp>

#include "support/options.hpp"
#include "support/phases.hpp"

namespace {

namespace cf = contraflow;
namespace fs = std::filesystem;

std::uint64_t bytes_below(const fs::path& folder) {
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) bytes += entry.file_size();
  }
  return bytes;
}

struct Settings {
  fs::path output = "out/random-model";
  std::optional<at::ScalarType> dtype;
  std::string kind = "sd3.5-medium";
  std::uint64_t seed = 0;
  bool tiny = false, without_t5 = false;

  bool is_flux() const { return kind.starts_with("flux"); }
};

/// The models of Stable Diffusion, by the shapes of their transformers.
const std::map<std::string, cf::MmditOptions>& sd3_kinds() {
  static const std::map<std::string, cf::MmditOptions> kinds{
      {"sd3-medium", cf::sd3_medium()}, {"sd3.5-medium", {}}, {"sd3.5-large", cf::sd35_large()}};
  return kinds;
}

template <class Options>
Options taken(const Settings& settings, Options options) {
  if (settings.dtype) options.dtype = *settings.dtype;
  options.seed = settings.seed;
  return options;
}

template <class Told>
void write(const Settings& settings, Told&& told) {
  if (settings.is_flux()) {
    auto options = settings.tiny ? cf::flux::tiny_folder() : cf::flux::RandomFolderOptions();
    if (settings.kind == "flux-schnell") options = cf::flux::as_schnell(options);
    return cf::flux::write_random_folder(settings.output, taken(settings, options), told);
  }
  const cf::MmditOptions& kind = sd3_kinds().at(settings.kind);
  cf::sd3::RandomFolderOptions options;
  options.transformer = kind;
  if (settings.tiny) options = cf::sd3::tiny_folder(0, kind);
  options.with_t5 = !settings.without_t5;
  cf::sd3::write_random_folder(settings.output, taken(settings, options), told);
}

}  // namespace

int main(int argc, char** argv) try {
  Settings settings;
  const std::map<std::string, at::ScalarType> dtypes{
      {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}};

  CLI::App app("Writes a model folder of random weights in the layout of diffusers.");
  app.add_option("--output", settings.output, "Folder to write")->capture_default_str();
  app.add_option("--dtype", settings.dtype, "float32, bfloat16 (default) or float16")
      ->transform(CLI::CheckedTransformer(dtypes, CLI::ignore_case));
  app.add_option("--seed", settings.seed, "Of the weights")
      ->check(support::natural())
      ->capture_default_str();
  app.add_option("--kind", settings.kind,
                 "Model: sd3-medium, sd3.5-medium, sd3.5-large, flux-dev or flux-schnell")
      ->check(
          CLI::IsMember({"sd3-medium", "sd3.5-medium", "sd3.5-large", "flux-dev", "flux-schnell"}))
      ->capture_default_str();
  app.add_flag("--without-t5", settings.without_t5,
               "Leave the third text encoder of Stable Diffusion out");
  app.add_flag("--tiny", settings.tiny, "Networks of the same kinds with 100,000 weights");
  CLI11_PARSE(app, argc, argv);
  cf::expects(!settings.without_t5 || !settings.is_flux(), "--without-t5", "off, for FLUX.1", "on");

  support::Phases phases;
  write(settings, [&](const char* name) { phases.begin(name); });
  std::cout << phases.table().text() << support::gibibytes(bytes_below(settings.output)) << " in "
            << settings.output.string() << '\n';
} catch (const std::exception& failure) {
  return support::failed("make_random_model", failure);
}
