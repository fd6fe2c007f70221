// FLUX.1 at full size with random weights and its base in 8 bits: seconds and peak memory of a
// gradient step, and how far blocks are off beside bfloat16.

#include <cmath>
#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <contraflow/flux/flux_config.hpp>
#include <contraflow/flux/model.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/train/optimizer.hpp>

#include "../../examples/support/phases.hpp"
#include "../../examples/support/table.hpp"

namespace {

namespace cf = contraflow;
using cf::Tensor;

/// Parts of one stream of normal numbers: quick, and as large as drawn ones.
class Pool {
 public:
  Tensor operator()(const std::string& name, at::IntArrayRef shape, cf::Generator&) {
    if (shape.size() < 2) return at::full(shape, name.ends_with("bias") ? 0.0 : 1.0);
    Tensor value = at::empty(shape);
    for (const Tensor& part : value.view(-1).split(pool_.numel() / 2)) {
      offset_ = (offset_ + 7'654'321) % (pool_.numel() / 2);
      Tensor(part).copy_(pool_.narrow(0, offset_, part.numel()));
    }
    return value.div_(std::sqrt(double(shape[1])));
  }

 private:
  static Tensor drawn() {
    cf::Generator generator = cf::seeded(1);
    return cf::normal({1 << 24}, generator);
  }
  Tensor pool_ = drawn();
  std::int64_t offset_ = 0;
};

struct Settings {
  cf::FluxOptions shape;
  std::int64_t rank = 32, size = 256, text = 64;
  int threads = 2;
  bool errors = false, float32 = false;
};

Tensor normal(at::IntArrayRef shape, std::uint64_t seed) {
  cf::Generator generator = cf::seeded(seed);
  return cf::normal(shape, generator);
}

void gradient_step(const Settings& settings) {
  const auto dtype = settings.float32 ? at::kFloat : at::kBFloat16;
  support::Phases phases;
  phases.begin("drawing " + std::to_string(settings.shape.num_layers) + " + " +
               std::to_string(settings.shape.num_single_layers) + " blocks, in 8 bits");
  const auto network = std::make_shared<cf::FluxNetwork>(settings.shape);
  cf::move_weights(*network, {.dtype = dtype});
  network->keep_blocks_in_int8();
  cf::Generator generator = cf::seeded(0);
  cf::initialise(*network, generator, Pool());
  cf::LoraOptions lora = cf::flux::lora_options();
  lora.rank = settings.rank;
  cf::LoraPolicy policy(cf::flux::Model(network, 3.5, {.recompute = true}), lora);
  const auto optimizer = cf::adamw({.learning_rate = 1e-4})(policy.parameters());
  const std::int64_t side = settings.size / 8;
  const cf::TextCondition prompt{normal({1, settings.text, settings.shape.joint_attention_dim}, 2),
                                 normal({1, settings.shape.pooled_projection_dim}, 3)};
  const Tensor x_t = normal({1, 16, side, side}, 4), t = at::full({1}, 0.5);
  phases.begin("forward");
  const Tensor v = policy.velocity(cf::Role::current, x_t, t, prompt);
  phases.begin("backward");
  (v - normal(v.sizes(), 5)).square().mean().backward();
  phases.begin("AdamW");
  optimizer->step();
  const auto bytes = [](const auto& tensors) {
    std::uint64_t sum = 0;
    for (const Tensor& tensor : tensors) sum += tensor.nbytes();
    return sum;
  };
  std::vector<Tensor> base;
  for (const auto& [name, weight] : cf::named_weights(*network)) base.push_back(weight);
  std::cout << phases.table().text() << "base " << support::gibibytes(bytes(base)) << ", adapter "
            << support::gibibytes(bytes(policy.parameters()))
            << ", velocity finite: " << v.isfinite().all().item<bool>() << '\n';
}

/// Root mean square of a difference over that of what is expected.
double distance(const Tensor& got, const Tensor& expected) {
  const Tensor reference = expected.to(at::kDouble);
  return ((got.to(at::kDouble) - reference).norm() / reference.norm()).item<double>();
}

/// What one block adds to its tokens, by how its weights are kept, against float32.
template <class Block>
std::vector<std::string> errors_of(
    const std::string& name, const Settings& settings,
    const std::function<Tensor(const Block&, at::ScalarType)>& change) {
  const auto made = [&](at::ScalarType dtype, bool int8) {
    Block block(settings.shape);
    if (int8) cf::keep_in_int8(block);
    cf::Generator generator = cf::seeded(7);
    cf::initialise(block, generator);
    cf::move_weights(block, {.dtype = dtype});
    return change(block, dtype);
  };
  const at::NoGradGuard no_gradient;
  const Tensor exact = made(at::kFloat, false);
  std::vector<std::string> row{name};
  for (const auto& [dtype, int8] : {std::pair(at::kFloat, true), std::pair(at::kBFloat16, false),
                                    std::pair(at::kBFloat16, true)}) {
    row.push_back(support::fixed(100 * distance(made(dtype, int8), exact), 3) + " %");
  }
  return row;
}

void errors(const Settings& settings) {
  const std::int64_t image = 64, text = 32, width = settings.shape.width();
  const Tensor x = normal({1, image, width}, 1), y = normal({1, text, width}, 2),
               embedding = normal({1, width}, 3);
  Tensor positions = at::zeros({text + image, 3});
  positions.narrow(0, text, image).select(1, 1).copy_(at::arange(image) / 8);
  const auto table = cf::rotary_table(positions, settings.shape.axes_dims_rope);
  support::Table result({"what a block adds", "8 bits in float32", "bfloat16", "8 bits in it"});
  const auto two = [&](const cf::FluxBlock& block, at::ScalarType dtype) {
    const auto as = [&](const Tensor& z) { return z.to(dtype); };
    const auto out = block.forward(as(x), as(y), as(embedding), table);
    return at::cat({out.first - as(x), out.second - as(y)}, 1);
  };
  const auto one = [&](const cf::FluxSingleBlock& block, at::ScalarType dtype) {
    const Tensor sequence = at::cat({y, x}, 1).to(dtype);
    return block.forward(sequence, embedding.to(dtype), table) - sequence;
  };
  result.add(errors_of<cf::FluxBlock>("two streams", settings, two));
  result.add(errors_of<cf::FluxSingleBlock>("one sequence", settings, one));
  std::cout << result.text();
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("A gradient step of FLUX.1 over a base in 8 bits, with random weights.");
  app.add_option("--blocks", settings.shape.num_layers, "Blocks of two streams");
  app.add_option("--single-blocks", settings.shape.num_single_layers, "Blocks of one sequence");
  app.add_option("--rank", settings.rank, "Of the adapter");
  app.add_option("--size", settings.size, "Pixels along a side");
  app.add_option("--text", settings.text, "Tokens of T5");
  app.add_option("--threads", settings.threads, "Of LibTorch");
  app.add_flag("--float32", settings.float32, "Compute in float32 instead of bfloat16");
  app.add_flag("--errors", settings.errors, "How far one block of each kind is off, instead");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(settings.threads);
  if (settings.errors) {
    errors(settings);
  } else {
    gradient_step(settings);
  }
  return 0;
}
