#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>

#include <contraflow/contraflow.hpp>
#include <contraflow/io/safetensors.hpp>
#include <contraflow/model/on_threads.hpp>
#include <contraflow/toy/scene_flow.hpp>
#include <contraflow/toy/scene_picture.hpp>
#include <contraflow/toy/scene_rewards.hpp>

/// The programs on scenes: NFT and FlowGRPO on GenEval in miniature.
namespace scenes_example {

namespace cf = contraflow;
namespace scenes = cf::toy::scenes;
using cf::Tensor;
using cf::toy::SceneFlow;

inline constexpr double guidance_scale = 4.5;
inline constexpr int sampling_steps = 10;
/// Prompts of each category in an evaluation.
inline constexpr std::int64_t per_category = 100;

/// Share of scenes that answer their prompt, categories in equal number.
struct StrictScore {
  double overall = 0;
  std::array<double, scenes::categories.size()> by_category{};
};

/// The base model of a file.
/// @throws cf::Error if the file is missing or holds another network
inline SceneFlow load_base(const std::filesystem::path& path) {
  SceneFlow flow;
  cf::load_weights(*flow.module(), cf::read_safetensors(path).tensors, path.string());
  // The tensors of a file are views of it, which must not be written to.
  return flow.clone();
}

/// Guidance as for Stable Diffusion 3.5, away from the prompt that asks for nothing.
template <class M>
auto guided(M model, double scale = guidance_scale) {
  return cf::Guided<M, Tensor>(std::move(model), scenes::null_prompt(), scale);
}

/// Tokens of prompts in the catalogue.
inline Tensor tokens_of(const Tensor& numbers) {
  return scenes::catalogue().all_tokens().index_select(0, numbers);
}

/// Scenes by the second-order solver, from fixed noise; each rank makes its share.
/// @param numbers int64 [N], prompts in the catalogue
template <class M, class Ranks = cf::Alone>
Tensor drawn(M model, const Tensor& numbers, std::uint64_t seed, const Ranks& ranks = {}) {
  const cf::Share own = cf::share_of(numbers.numel(), ranks.rank(), ranks.size());
  cf::Generator generator = cf::seeded(seed).rows(at::arange(own.first, own.last, at::kLong));
  const Tensor tokens = tokens_of(numbers.slice(0, own.first, own.last));
  const Tensor noise =
      cf::normal({own.size(), scenes::channels, scenes::side, scenes::side}, generator);
  auto velocity = [&](const Tensor& x, double sigma) {
    return cf::velocity_of(model, x, at::full({x.size(0)}, sigma, at::kFloat), tokens);
  };
  return ranks.gather(cf::sampled(cf::DpmSolver<2>{}, velocity, noise,
                                  cf::uniform_grid(sampling_steps), generator));
}

/// The strict score of scenes for the prompts of evaluation_prompts().
inline StrictScore strict_score(const Tensor& x0, const Tensor& numbers) {
  const Tensor strict = scenes::judge(scenes::catalogue().prompts(), numbers, x0).strict;
  const Tensor means = strict.view({std::int64_t(scenes::categories.size()), -1}).mean(1);
  StrictScore score{strict.mean().item<double>(), {}};
  for (std::size_t i = 0; i < score.by_category.size(); ++i) {
    score.by_category[i] = means[std::int64_t(i)].item<double>();
  }
  return score;
}

/// The strict score of a model on the kept-out prompts and fixed noise.
/// @param prompts of each category
template <class M, class Ranks = cf::Alone>
StrictScore evaluated(M model, const Ranks& ranks = {}, std::int64_t prompts = per_category) {
  const Tensor numbers = scenes::evaluation_prompts(prompts);
  return strict_score(drawn(std::move(model), numbers, 1, ranks), numbers);
}

/// Distinct scenes for a prompt, as a share of 16 samples of it; mean over the prompts of all
/// categories that leave a choice.
/// @param prompts of each category, at most
template <class M>
double diversity(M model, std::int64_t prompts = per_category) {
  constexpr std::int64_t samples = 16;
  const Tensor some = scenes::evaluation_prompts(std::min<std::int64_t>(prompts, 8));
  const Tensor numbers = some.repeat_interleave(samples);
  const Tensor group = at::arange(some.numel(), at::kLong).repeat_interleave(samples);
  return scenes::distinct_share(drawn(std::move(model), numbers, 2), group);
}

}  // namespace scenes_example
