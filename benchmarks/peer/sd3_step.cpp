// The transformer of Stable Diffusion 3.5 Medium at full size with random weights: seconds of a
// forward pass, of one micro-batch of an NFT update of adapters, images a second of a rollout, and
// peak memory. sd3_step.py is the same in PyTorch. Prints one line of JSON.
//
// With --write it writes a small transformer's weights, inputs and velocity instead, for
// sd3_step.py
// --check.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/model/mmdit.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/objective/velocity_kl.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/reward/analytic.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/train/trainer.hpp>

namespace cf = contraflow;
using cf::Tensor;

namespace {

struct Settings {
  std::int64_t layers = 24, dual = 13, size = 512, batch = 4, tokens = 333, images = 8;
  int rounds = 5;
  std::string device = "cuda";
  bool tiny = false;

  cf::MmditOptions shape() const {
    cf::MmditOptions options;
    if (tiny) {
      options = {.sample_size = 16,
                 .num_attention_heads = 2,
                 .joint_attention_dim = 64,
                 .caption_projection_dim = 128,
                 .pooled_projection_dim = 32,
                 .pos_embed_max_size = 32};
    }
    options.num_layers = layers;
    options.dual_attention_layers.clear();
    for (std::int64_t i = 0; i < dual; ++i) options.dual_attention_layers.push_back(i);
    return options;
  }
};

void wait(const std::string& device) {
  if (device != "cpu") at::accelerator::synchronizeDevice(0);
}

double peak_bytes(const std::string& device) {
  if (device == "cpu") return 0;
  return double(at::accelerator::getDeviceStats(0).allocated_bytes[0].peak);
}
void forget_peak(const std::string& device) {
  if (device != "cpu") at::accelerator::resetPeakStats(0);
}

/// Weights that keep the variance, drawn where they are: numbers of LibTorch's own are good enough.
std::shared_ptr<cf::MmditNetwork> random_network(const cf::MmditOptions& shape,
                                                 const at::TensorOptions& like) {
  auto network = std::make_shared<cf::MmditNetwork>(shape);
  for (const auto& [name, weight] : cf::named_weights(*network)) {
    Tensor value = at::empty(weight.sizes(), like);
    if (weight.dim() == 1) {
      value.fill_(name.ends_with("bias") ? 0 : 1);
    } else {
      value.normal_(0, 1 / std::sqrt(double(weight[0].numel())));
    }
    Tensor(weight).set_data(value);
  }
  Tensor(cf::named_weights(*network).at("pos_embed.pos_embed"))
      .set_data(cf::position_table(shape).to(like));
  return network;
}

cf::TextCondition prompts(const cf::MmditOptions& shape, std::int64_t count, std::int64_t tokens,
                          const at::TensorOptions& like) {
  return {at::empty({count, tokens, shape.joint_attention_dim}, like).normal_(),
          at::empty({count, shape.pooled_projection_dim}, like).normal_()};
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ptrdiff_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Median of the seconds of @p work, the first time left out.
template <class F>
double seconds_of(const Settings& s, F&& work) {
  std::vector<double> seconds;
  for (int i = 0; i <= s.rounds; ++i) {
    wait(s.device);
    const auto start = std::chrono::steady_clock::now();
    work();
    wait(s.device);
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    if (i > 0) seconds.push_back(passed.count());
  }
  return median(seconds);
}

void print_forward(const Settings& s) {
  const at::NoGradGuard no_gradient;
  const auto like = at::device(at::Device(s.device)).dtype(at::kBFloat16);
  cf::Mmdit model(random_network(s.shape(), like));
  const Tensor x = at::empty({s.batch, 16, s.size / 8, s.size / 8}, like).normal_();
  const cf::TextCondition condition = prompts(s.shape(), s.batch, s.tokens, like);
  const Tensor t = at::full({s.batch}, 0.5, like.dtype(at::kFloat));
  const double seconds = seconds_of(s, [&] { model(x, t, condition); });
  std::printf("{\"forward_seconds\": %.6f, \"peak_bytes\": %.0f}\n", seconds, peak_bytes(s.device));
}

/// A likely score: each image has another one.
cf::LinearReward reward_of(const Settings& s) {
  return {at::ones({16, s.size / 8, s.size / 8}) / double(2 * s.size * s.size / 8)};
}

void print_epoch(const Settings& s) {
  const auto like = at::device(at::Device(s.device)).dtype(at::kBFloat16);
  auto trainer = cf::Trainer(
      cf::LoraPolicy(cf::Mmdit(random_network(s.shape(), like)), {.rank = 32, .alpha = 64}),
      cf::DpmSolver<2>{}, reward_of(s), cf::Nft{} + 1e-4 * cf::VelocityKl{},
      cf::PromptRows(prompts(s.shape(), 2, s.tokens, like)),
      cf::Collection{.prompts_per_epoch = 1,
                     .group_size = s.images,
                     .grid = cf::sd3_grid(10),
                     .sample_shape = {16, s.size / 8, s.size / 8}},
      cf::Optimization{.micro_batch = 4},
      cf::ForwardProcess{.times = cf::StratifiedTimes{.per_sample = 1}});
  std::vector<double> collect, update;
  double peak = 0;
  for (int i = 0; i <= s.rounds; ++i) {
    forget_peak(s.device);
    wait(s.device);
    const auto report = trainer.run_epoch();
    wait(s.device);
    peak = peak_bytes(s.device);
    if (i == 0) continue;
    const double collecting = report.find("seconds/collect").value();
    collect.push_back(collecting);
    update.push_back(report.find("seconds/epoch").value() - collecting);
  }
  const auto micro_batches = double((s.images + 3) / 4);
  std::printf(
      "{\"images_per_second\": %.4f, \"update_seconds_per_micro_batch\": %.6f, "
      "\"peak_bytes\": %.0f}\n",
      double(s.images) / median(collect), median(update) / micro_batches, peak);
}

void write_check(const std::filesystem::path& path) {
  const at::NoGradGuard no_gradient;
  const Settings s{.layers = 3, .dual = 2, .size = 64, .batch = 2, .tokens = 5, .tiny = true};
  const auto like = at::TensorOptions().dtype(at::kFloat);
  const auto network = random_network(s.shape(), like);
  const Tensor x = at::randn({s.batch, 16, s.size / 8, s.size / 8});
  const cf::TextCondition condition = prompts(s.shape(), s.batch, s.tokens, like);
  const Tensor t = at::rand({s.batch});
  std::map<std::string, Tensor> tensors{{"x", x},
                                        {"t", t},
                                        {"sequence", condition.sequence},
                                        {"pooled", condition.pooled},
                                        {"velocity", cf::Mmdit(network)(x, t, condition)}};
  for (const auto& [name, weight] : cf::named_weights(*network)) {
    tensors.emplace("weight." + name, weight.detach());
  }
  cf::write_safetensors(path, tensors);
}

}  // namespace

int main(int argc, char** argv) {
  Settings s;
  std::string part = "forward";
  int threads = 0;
  std::filesystem::path file;
  CLI::App app("A full-size transformer with random weights");
  app.add_option("--part", part, "forward or epoch")->check(CLI::IsMember({"forward", "epoch"}));
  app.add_option("--device", s.device, "cpu or cuda");
  app.add_option("--size", s.size, "pixels along a side");
  app.add_option("--batch", s.batch, "images of a forward pass");
  app.add_option("--images", s.images, "of a rollout");
  app.add_option("--layers", s.layers, "joint blocks");
  app.add_option("--dual", s.dual, "of them with a second attention");
  app.add_option("--rounds", s.rounds, "that are timed")->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "threads of an operation; 0: as LibTorch has it");
  app.add_flag("--tiny", s.tiny, "of a small width, to try the program");
  app.add_option("--write", file, "safetensors file for sd3_step.py --check");
  CLI11_PARSE(app, argc, argv);
  if (threads > 0) at::set_num_threads(threads);
  if (!file.empty()) {
    write_check(file);
  } else if (part == "forward") {
    print_forward(s);
  } else {
    print_epoch(s);
  }
  return 0;
}
