#pragma once

#include <string>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/network/weights.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/objective/velocity_kl.hpp>
#include <contraflow/pipeline/model_folder.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/train/checkpoint.hpp>
#include <contraflow/train/trainer.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

/// What holds for a text-to-image model whose base is kept in 8 bits.
namespace laws {

namespace cf = contraflow;
using cf::pipeline::BlockWeights;

/// What a model is called with.
struct PromptedInput {
  Tensor x_t, t;
  cf::TextCondition condition;
};

/// Times that bfloat16 holds, also a thousand times as much: FLUX.1 rounds both.
inline Tensor exact_times() { return at::tensor({0.125F, 0.25F, 0.5F, 1.0F}); }

/// Root mean square of the difference over that of what is expected.
inline double mean_distance(const Tensor& got, const Tensor& expected) {
  const Tensor reference = expected.detach().to(at::kDouble);
  return ((got.detach().to(at::kDouble) - reference).norm() / reference.norm()).item<double>();
}

/// How far the velocity of a folder's model is off in 8 bits, and in bfloat16.
/// @param load gives the model as `load(placement, blocks)`
template <class Load>
void int8_velocity(Load&& load, const PromptedInput& in) {
  const auto velocity = [&](at::ScalarType dtype, BlockWeights blocks) {
    auto model = load(cf::Placement{.dtype = dtype}, blocks);
    const at::NoGradGuard no_gradient;
    return model(in.x_t, in.t, in.condition);
  };
  const Tensor exact = velocity(at::kDouble, BlockWeights::as_placed);
  const double single = mean_distance(velocity(at::kFloat, BlockWeights::int8), exact);
  const double half = mean_distance(velocity(at::kBFloat16, BlockWeights::as_placed), exact);
  const double both = mean_distance(velocity(at::kBFloat16, BlockWeights::int8), exact);
  INFO("8 bits in float32 " << single << ", bfloat16 " << half << ", 8 bits in it " << both);
  CHECK(single > 1e-3);
  CHECK(single < 0.02);
  CHECK(both < single + half + 0.01);
}

/// Some epochs over a base in 8 bits: a run that is resumed has the bits of one that is not, the
/// base keeps its own, and one in floating point is not what it goes on from.
/// @param load gives the model as `load(placement, blocks)`, with recomputed blocks
/// @param lora small
/// @param prompts any rows
/// @param shape of a sample
template <class Load>
void int8_training(Load&& load, const cf::LoraOptions& lora, const cf::TextCondition& prompts,
                   const std::vector<std::int64_t>& shape) {
  const auto run_of = [&](BlockWeights blocks) {
    return cf::Trainer(
        cf::LoraPolicy(load(cf::Placement{.dtype = at::kBFloat16}, blocks), lora),
        cf::DpmSolver<2>{}, [](const Tensor& x0) { return x0.flatten(1).mean(1); },
        cf::Nft{} + 1e-2 * cf::VelocityKl{},
        cf::Collection{.prompts_per_epoch = 2,
                       .group_size = 3,
                       .grid = cf::uniform_grid(3),
                       .sample_shape = shape},
        cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-2})}, cf::Seed{7},
        cf::PromptRows(prompts));
  };
  auto whole = run_of(BlockWeights::int8), first = run_of(BlockWeights::int8),
       second = run_of(BlockWeights::int8), other = run_of(BlockWeights::as_placed);
  const auto base = [](auto& run) {
    return cf::named_weights(*cf::module_of(run.policy().model()));
  };
  const auto before = base(second);
  const TemporaryDirectory folder;
  whole.run(4);
  first.run(2, cf::Checkpoint{.directory = folder.path(), .every = 100});
  REQUIRE(cf::resume(second, folder.path()));
  second.run(4);
  CHECK(second.gradient_steps() == 4);
  const auto trained = whole.policy().state(), resumed = second.policy().state();
  REQUIRE(trained.size() == resumed.size());
  for (const auto& [name, tensor] : trained) CHECK(same_bits(resumed.at(name), tensor));
  CHECK(whole.policy().old_deviation() > 0);
  for (const auto& [name, weight] : before) CHECK(same_bits(base(second).at(name), weight));
  check_error([&] { cf::resume(other, folder.path()); }, "base", "layers in 8 bits");
}

}  // namespace laws
