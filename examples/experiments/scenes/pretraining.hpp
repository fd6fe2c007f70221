#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <contraflow/toy/scene_captions.hpp>

#include "evaluation.hpp"
#include "support/ranks.hpp"

namespace scenes_example {

/// A part of pre-training.
struct Phase {
  std::string name;
  std::vector<scenes::Category> list;  ///< of whose prompts there are scenes
  std::int64_t steps;
  double learning_rate;  ///< after a warm-up of 100 steps
  double last_factor;    ///< of the learning rate at the end, reached along a cosine
  double time_mean;      ///< of the logit of the training times
  double spoilt_words;   ///< see scenes::Spoiling
};

/// How the base is made. Position comes first and alone: where an object goes is said by three
/// words together, and mixed in from the start it stays at chance. The last phase makes a model
/// that knows more than it shows without guidance, as Stable Diffusion 3.5 does on GenEval.
//! [curriculum]
inline std::vector<Phase> curriculum() {
  const std::vector<scenes::Category> all(scenes::categories.begin(), scenes::categories.end());
  return {{"position alone", {scenes::Category::position}, 1500, 2e-3, 0.3, 1.0, 0.0},
          {"all categories", all, 3500, 2e-3, 0.02, 0.5, 0.0},
          {"spoilt captions", all, 200, 5e-4, 0.1, 0.0, 0.48}};
}
//! [curriculum]

/// Scenes of the pre-training set with captions of some categories.
inline scenes::Captioned of_categories(const scenes::Captioned& set,
                                       const std::vector<scenes::Category>& list) {
  const std::int64_t size = set.latents.size(0) / std::int64_t(scenes::categories.size());
  std::vector<Tensor> latents, captions, numbers;
  for (const scenes::Category category : list) {
    latents.push_back(set.latents.narrow(0, size * std::int64_t(category), size));
    captions.push_back(set.captions.narrow(0, size * std::int64_t(category), size));
    numbers.push_back(set.numbers.narrow(0, size * std::int64_t(category), size));
  }
  return {at::cat(latents), at::cat(captions), at::cat(numbers)};
}

/// The 24,000 scenes.
inline scenes::Captioned pretraining_set(std::uint64_t seed) {
  cf::Generator generator = cf::seeded(cf::stream_seed(seed, 1));
  return scenes::draw_captioned({scenes::categories.begin(), scenes::categories.end()}, 4000,
                                generator);
}

/// The trainer of a phase, whose reports are of 10 steps.
template <class M>
auto trainer_of(const M& model, const Phase& phase, const scenes::Captioned& set,
                std::uint64_t seed, const support::Ranks& ranks) {
  const scenes::CaptionedData data{of_categories(set, phase.list),
                                   scenes::Spoiling{.word = phase.spoilt_words}};
  return cf::Pretrainer(
      model, data, cf::Pretraining{.steps = phase.steps, .batch = 256, .report_every = 10},
      cf::Optimization{
          .optimizer = cf::adamw({.learning_rate = phase.learning_rate}),
          .learning_rate_factor =
              cf::Cosine{.steps = double(phase.steps), .warm_up = 100, .last = phase.last_factor}},
      cf::ForwardProcess{.times = cf::LogitNormalTimes{.mean = phase.time_mean, .std = 1.2}},
      cf::Seed{seed}, ranks);
}

}  // namespace scenes_example
