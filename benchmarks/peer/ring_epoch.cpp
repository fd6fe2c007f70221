// The NFT epoch of the ring task: prints seconds an epoch and those of the processor (medians),
// like ring_epoch.py and ring_epoch_jax.py.
//
// With --write it also writes what ring_epoch_jax.py --check compares itself with: weights of three
// roles, a batch, the velocity and the gradients of its loss, and how many velocities an epoch
// computes.

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <contraflow/contraflow.hpp>
#include <contraflow/core/memory.hpp>
#include <contraflow/io/safetensors.hpp>
#include <contraflow/toy/rewards.hpp>

#include "epoch_times.hpp"

namespace cf = contraflow;
using cf::Tensor;

namespace {

auto trainer_of_ring(const at::Device& device) {
  cf::MlpVelocity model({});
  model->to(device);
  return cf::Trainer(
      cf::SnapshotPolicy(std::move(model)), cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}},
      cf::Nft{} + 1e-4 * cf::VelocityKl{},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)});
}

/// Other weights for each seed, none of them zero.
cf::MlpVelocity random_model(std::uint64_t seed) {
  cf::MlpVelocity model({.seed = seed});
  cf::Generator generator = cf::seeded(seed);
  const at::NoGradGuard no_gradient;
  for (const Tensor& weight : model->parameters()) {
    Tensor(weight).add_(cf::normal_like(weight, generator), 0.05);
  }
  return model;
}

void add_weights(std::map<std::string, Tensor>& tensors, const cf::MlpVelocity& model,
                 const std::string& role) {
  for (const auto& item : model->named_parameters()) {
    tensors.emplace(role + "." + item.key(), item.value().detach());
  }
}

void write_check(const std::filesystem::path& path, const cf::EvaluationCount& evaluations) {
  constexpr std::int64_t count = 300;
  cf::Generator generator = cf::seeded(0);
  cf::MlpVelocity current = random_model(1), old = random_model(2), reference = random_model(3);
  const Tensor x0 = cf::normal({count, 2}, generator), eps = cf::normal({count, 2}, generator);
  const Tensor t = cf::uniform({count}, generator), r = cf::uniform({count}, generator);
  const Tensor x_t = cf::interpolate(x0, eps, t);
  const Tensor velocity = current(x_t, t);
  const cf::NftTerms terms = cf::adaptive_nft_loss(
      {velocity, old(x_t, t).detach(), reference(x_t, t).detach(), x0, eps, t, r},
      {.beta = 1, .kl_weight = 1e-4}, {});
  terms.total.mean().backward();

  std::map<std::string, Tensor> tensors{
      {"x0", x0},
      {"eps", eps},
      {"t", t},
      {"r", r},
      {"x_t", x_t},
      {"velocity", velocity.detach()},
      {"evaluations", at::tensor({evaluations.forward, evaluations.backward}, at::kLong)}};
  add_weights(tensors, current, "current");
  add_weights(tensors, old, "old");
  add_weights(tensors, reference, "reference");
  for (const auto& item : current->named_parameters()) {
    tensors.emplace("gradient." + item.key(), item.value().grad());
  }
  cf::write_safetensors(path, tensors);
}

}  // namespace

int main(int argc, char** argv) {
  int epochs = 200, threads = 1;
  bool composed = false;
  std::string device = "cpu";
  std::filesystem::path file;
  CLI::App app("Seconds an epoch of NFT on the ring task");
  app.add_option("--epochs", epochs, "epochs to run")->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "threads of an operation")->check(CLI::PositiveNumber);
  app.add_option("--device", device, "cpu or cuda");
  app.add_flag("--composed", composed, "layers of LibTorch's operations, without fused kernels");
  app.add_option("--write", file, "safetensors file for ring_epoch_jax.py --check");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(threads);
  cf::keep_freed_memory();
  std::optional<cf::ComposedOnly> only;
  if (composed) only.emplace();

  auto trainer = trainer_of_ring(device);
  peer::time_epochs(trainer, epochs, [&](int i) {
    if (i == 0 && !file.empty()) write_check(file, trainer.evaluations());
  });
  return 0;
}
