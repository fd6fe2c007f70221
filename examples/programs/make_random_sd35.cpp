// A folder of random weights with the names, shapes, precision and files of Stable Diffusion 3.5
// Medium: to try memory and speed without the real ones. About 16 GB in bfloat16; weights are
// written one by one and never held together.

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <string>

#include <CLI/CLI.hpp>

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

}  // namespace

int main(int argc, char** argv) try {
  fs::path output = "out/random-sd35";
  cf::sd3::RandomFolderOptions options;
  bool tiny = false, without_t5 = false;
  std::uint64_t seed = 0;
  const std::map<std::string, at::ScalarType> dtypes{
      {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}};

  CLI::App app("Writes a model folder of random weights in the layout of Stable Diffusion 3.5.");
  app.add_option("--output", output, "Folder to write")->capture_default_str();
  auto* dtype = app.add_option("--dtype", options.dtype, "float32, bfloat16 (default) or float16");
  dtype->transform(CLI::CheckedTransformer(dtypes, CLI::ignore_case));
  app.add_option("--seed", seed, "Of the weights")
      ->check(support::natural())
      ->capture_default_str();
  app.add_flag("--without-t5", without_t5, "Leave the third text encoder out");
  app.add_flag("--tiny", tiny, "Networks of the same kinds with 100,000 weights");
  CLI11_PARSE(app, argc, argv);

  if (tiny) {
    const at::ScalarType given = options.dtype;
    options = cf::sd3::tiny_folder();
    if (dtype->count() > 0) options.dtype = given;
  }
  options.seed = seed;
  options.with_t5 = !without_t5;
  support::Phases phases;
  cf::sd3::write_random_folder(output, options, [&](const char* name) { phases.begin(name); });
  std::cout << phases.table().text() << support::gibibytes(bytes_below(output)) << " in "
            << output.string() << '\n';
} catch (const std::exception& failure) {
  return support::failed("make_random_sd35", failure);
}
