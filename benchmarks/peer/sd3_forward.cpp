// Seconds of a forward pass of the transformer of Stable Diffusion 3.5, from a model folder;
// sd3_forward.py is the same through diffusers.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <contraflow/sd3/folder.hpp>

namespace cf = contraflow;

int main(int argc, char** argv) {
  std::string model;
  std::int64_t size = 256, batch = 1, tokens = 333;
  int rounds = 5, threads = 2;
  at::ScalarType dtype = at::kBFloat16;
  const std::map<std::string, at::ScalarType> dtypes{{"float32", at::kFloat},
                                                     {"bfloat16", at::kBFloat16}};
  CLI::App app("Seconds of a forward pass of the transformer");
  app.add_option("--model", model, "model folder")->required();
  app.add_option("--size", size, "pixels along a side");
  app.add_option("--batch", batch, "images");
  app.add_option("--tokens", tokens, "tokens of the prompt");
  app.add_option("--rounds", rounds, "passes that are timed")->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "threads of an operation")->check(CLI::PositiveNumber);
  app.add_option("--dtype", dtype, "float32 or bfloat16")
      ->transform(CLI::CheckedTransformer(dtypes));
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(threads);

  const at::NoGradGuard no_gradient;
  cf::Mmdit transformer = cf::sd3::Folder(model).transformer({.dtype = dtype});
  const cf::MmditOptions& options = transformer.network().options();
  cf::Generator generator = cf::seeded(0);
  const auto like = at::TensorOptions().dtype(dtype);
  const cf::Tensor x =
      cf::normal({batch, options.in_channels, size / 8, size / 8}, generator, like);
  const cf::TextCondition condition{
      cf::normal({batch, tokens, options.joint_attention_dim}, generator, like),
      cf::normal({batch, options.pooled_projection_dim}, generator, like)};
  const cf::Tensor t = at::full({batch}, 0.5);
  std::vector<double> seconds;
  for (int i = 0; i <= rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    transformer(x, t, condition);
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    if (i > 0) seconds.push_back(passed.count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + std::ptrdiff_t(seconds.size() / 2),
                   seconds.end());
  std::printf("%.6f\n", seconds[seconds.size() / 2]);
  return 0;
}
