// A folder of random weights with the names, shapes, precision and files of Stable Diffusion 3.5
// Medium, about 16 GB in bfloat16, or of FLUX.1, 34 GB: to try memory and speed without the real
// ones. Weights are written one by one and never held together.

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
  fs::path output = "out/random-sd35";
  std::optional<at::ScalarType> dtype;
  std::uint64_t seed = 0;
  bool tiny = false, without_t5 = false, flux = false, schnell = false;
};

template <class Options>
Options taken(const Settings& settings, Options options) {
  if (settings.dtype) options.dtype = *settings.dtype;
  options.seed = settings.seed;
  return options;
}

template <class Told>
void write(const Settings& settings, Told&& told) {
  if (settings.flux || settings.schnell) {
    auto options = settings.tiny ? cf::flux::tiny_folder() : cf::flux::RandomFolderOptions();
    if (settings.schnell) options = cf::flux::as_schnell(options);
    return cf::flux::write_random_folder(settings.output, taken(settings, options), told);
  }
  auto options = settings.tiny ? cf::sd3::tiny_folder() : cf::sd3::RandomFolderOptions();
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
  auto* without_t5 = app.add_flag("--without-t5", settings.without_t5,
                                  "Leave the third text encoder of Stable Diffusion 3.5 out");
  app.add_flag("--flux", settings.flux, "FLUX.1 [dev]")->excludes(without_t5);
  app.add_flag("--schnell", settings.schnell, "FLUX.1 [schnell]")->excludes(without_t5);
  app.add_flag("--tiny", settings.tiny, "Networks of the same kinds with 100,000 weights");
  CLI11_PARSE(app, argc, argv);

  support::Phases phases;
  write(settings, [&](const char* name) { phases.begin(name); });
  std::cout << phases.table().text() << support::gibibytes(bytes_below(settings.output)) << " in "
            << settings.output.string() << '\n';
} catch (const std::exception& failure) {
  return support::failed("make_random_sd35", failure);
}
