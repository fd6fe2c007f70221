#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <contraflow/toy/word_captions.hpp>

#include "evaluation.hpp"
#include "support/ranks.hpp"

namespace words_example {

/// A part of pre-training.
struct Phase {
  std::string name;
  words::Layouts layouts;
  std::int64_t steps;
  double learning_rate;   ///< after a warm-up of 100 steps
  double last_factor;     ///< of the learning rate at the end, reached along a cosine
  double spoilt_letters;  ///< see words::Spoiling
};

/// How the model comes to show less than it knows.
struct Hiding {
  std::int64_t steps = 120;
  double spoilt_letters = 0.85;  ///< see words::Spoiling
};

/// How the base is made. Words of one font in one place come first: where a letter goes is learnt
/// there, and then how else words may lie. The last phase makes a model that knows more than it
/// shows without guidance, as Stable Diffusion 3.5 does where it is to write.
//! [curriculum]
inline std::vector<Phase> curriculum(const Hiding& hiding) {
  return {{"one font in the middle", {.fonts = 1, .anywhere = false}, 300, 2e-3, 0.5, 0.0},
          {"all fonts anywhere", {}, 1200, 2e-3, 0.02, 0.0},
          {"the same once more", {}, 1400, 2e-3, 0.02, 0.0},
          {"spoilt captions", {}, hiding.steps, 5e-4, 0.1, hiding.spoilt_letters}};
}
//! [curriculum]

/// The tokens of the pre-training set.
inline Tensor pretraining_set(std::uint64_t seed) {
  cf::Generator generator = cf::seeded(cf::stream_seed(seed, 1));
  return words::pretraining_texts(12000, generator);
}

/// The trainer of a phase, whose reports are of 10 steps.
template <class M>
auto trainer_of(const M& model, const Phase& phase, const words::Glyphs& glyphs, const Tensor& set,
                std::uint64_t seed, const support::Ranks& ranks) {
  const words::CaptionedWords data{glyphs, set, phase.layouts,
                                   words::Spoiling{.letter = phase.spoilt_letters}};
  return cf::Pretrainer(
      model, data, cf::Pretraining{.steps = phase.steps, .batch = 128, .report_every = 10},
      cf::Optimization{
          .optimizer = cf::adamw({.learning_rate = phase.learning_rate}),
          .learning_rate_factor =
              cf::Cosine{.steps = double(phase.steps), .warm_up = 100, .last = phase.last_factor}},
      cf::ForwardProcess{.times = cf::LogitNormalTimes{.mean = 0.5, .std = 1.2}}, cf::Seed{seed},
      ranks);
}

}  // namespace words_example
