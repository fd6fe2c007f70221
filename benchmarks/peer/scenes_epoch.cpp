// The NFT epoch of the scenes task: prints seconds an epoch and those of the processor (medians),
// like scenes_epoch.py.
//
// With --write it also writes what scenes_epoch.py --check compares itself with: weights,
// velocities, the gradients of a loss, strict scores, and how many velocities an epoch computes.

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <contraflow/contraflow.hpp>
#include <contraflow/core/memory.hpp>
#include <contraflow/io/safetensors.hpp>
#include <contraflow/model/on_threads.hpp>
#include <contraflow/toy/scene_captions.hpp>
#include <contraflow/toy/scene_flow.hpp>
#include <contraflow/toy/scene_rewards.hpp>

#include "epoch_times.hpp"

namespace cf = contraflow;
namespace scenes = cf::toy::scenes;
using cf::Tensor;
using cf::toy::SceneFlow;

namespace {

/// Answers late, as a judge over a network does.
struct SlowJudge {
  double seconds;  ///< a request

  Tensor operator()(const Tensor& x0, const Tensor& numbers) const {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    return scenes::Strict{}(x0, numbers);
  }
};

auto trainer_of(const at::Device& device, int threads, double judge_seconds, int ahead) {
  SceneFlow model;
  cf::move_weights(*model.module(), {.device = device});
  cf::SnapshotPolicy policy(cf::OnThreads(std::move(model), threads),
                            cf::SnapshotOptions{.old_decay = cf::Ramp{.rate = 0.02, .max = 0.95},
                                                .average_decay = cf::WarmingUp{.max = 0.97}});
  const Tensor numbers = scenes::training_prompts();
  const Tensor tokens = scenes::catalogue().all_tokens().index_select(0, numbers).to(device);
  return cf::Trainer(
      std::move(policy), cf::DpmSolver<2>{}, SlowJudge{judge_seconds},
      cf::Nft{.beta = 0.5, .optimality = cf::Optimality{.clip = 1}} + 0.03 * cf::VelocityKl{},
      cf::PromptRows(tokens, numbers),
      cf::Collection{.prompts_per_epoch = 24, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::ForwardProcess{.times = cf::StratifiedTimes{.per_sample = 2}},
      cf::GroupAdvantage{.spread = cf::Spread::none}, cf::Learning{.gradient_steps = 2},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3}),
                       .learning_rate_factor = cf::InverseRoot{.steps = 10}},
      cf::Ahead{ahead});
}

/// Random weights: those that training begins with give a velocity of zero.
SceneFlow random_model(cf::Generator& generator) {
  SceneFlow model;
  cf::initialise(*model.module(), generator,
                 [](const std::string& name, at::IntArrayRef shape, cf::Generator& from) {
                   return cf::initial_weight(name, shape, from) + 0.1 * cf::normal(shape, from);
                 });
  return model;
}

void write_check(const std::filesystem::path& path, const cf::EvaluationCount& evaluations) {
  cf::Generator generator = cf::seeded(0);
  SceneFlow model = random_model(generator);
  const scenes::Captioned drawn =
      scenes::draw_captioned({scenes::categories.begin(), scenes::categories.end()}, 50, generator);
  const Tensor x = drawn.latents + 0.2 * cf::normal_like(drawn.latents, generator);
  const Tensor t = cf::uniform({x.size(0)}, generator);
  const Tensor velocity = model(x, t, drawn.captions);
  velocity.square().mean().backward();

  std::map<std::string, Tensor> tensors{
      {"x", x},
      {"t", t},
      {"tokens", drawn.captions},
      {"velocity", velocity.detach()},
      {"strict", scenes::Strict{}(x, drawn.numbers)},
      {"evaluations", at::tensor({evaluations.forward, evaluations.backward}, at::kLong)}};
  for (const auto& [name, weight] : cf::named_weights(*model.module())) {
    tensors.emplace("weight." + name, weight.detach());
    if (weight.grad().defined()) tensors.emplace("gradient." + name, weight.grad());
  }
  cf::write_safetensors(path, tensors);
}

}  // namespace

int main(int argc, char** argv) {
  int epochs = 10, threads = 1, ahead = 0;
  double judge_seconds = 0;
  bool composed = false;
  std::string device = "cpu";
  std::filesystem::path file;
  CLI::App app("Seconds an epoch of NFT on the scenes task");
  app.add_option("--epochs", epochs, "epochs to run")->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "threads between which batches are divided")
      ->check(CLI::PositiveNumber);
  app.add_option("--device", device, "cpu or cuda");
  app.add_flag("--composed", composed, "layers of LibTorch's operations, without fused kernels");
  app.add_option("--judge-seconds", judge_seconds, "that a judge takes to answer")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--ahead", ahead, "1: score the next samples while an epoch is learnt")
      ->check(CLI::Range(0, 1));
  app.add_option("--write", file, "safetensors file for scenes_epoch.py --check");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(1);
  cf::keep_freed_memory();
  std::optional<cf::ComposedOnly> only;
  if (composed) only.emplace();

  auto trainer = trainer_of(device, threads, judge_seconds, ahead);
  peer::time_epochs(trainer, epochs, [&](int i) {
    if (i == 0 && !file.empty()) write_check(file, trainer.evaluations());
  });
  return 0;
}
