#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "evaluation.hpp"

namespace scenes_example {

/// What the base is improved by.
enum class Method {
  nft,              ///< negative-aware fine-tuning
  nft_positive,     ///< the same without its negative branch
  nft_multi,        ///< the same for three rewards at once
  flow_grpo,        ///< without guidance, like the others
  flow_grpo_guided  ///< with guidance in sampling and training, as published
};

/// Names of methods, for the command line and for files.
inline const std::map<std::string, Method>& methods() {
  static const std::map<std::string, Method> names{{"nft", Method::nft},
                                                   {"nft-positive", Method::nft_positive},
                                                   {"nft-multi", Method::nft_multi},
                                                   {"grpo", Method::flow_grpo},
                                                   {"grpo-guided", Method::flow_grpo_guided}};
  return names;
}
inline std::string name_of(Method method) {
  for (const auto& [name, one] : methods()) {
    if (one == method) return name;
  }
  return "unknown";
}

inline bool is_grpo(Method method) {
  return method == Method::flow_grpo || method == Method::flow_grpo_guided;
}

/// w(t) of NFT's two squared errors: the published adaptive one, or one of the paper's.
enum class Weighting { adaptive, one, t, one_minus_t };
/// How NFT collects.
enum class Collecting { order_1, order_2, sde };

//! [settings]
/// All that a run can be told; what is written here is what NFT did best with.
struct Settings {
  Method method = Method::nft;
  std::uint64_t seed = 1;
  std::int64_t epochs = 40;
  std::int64_t prompts = 24;        ///< an epoch
  std::int64_t group_size = 24;     ///< samples a prompt
  std::int64_t gradient_steps = 2;  ///< an epoch
  std::int64_t ahead = 0;           ///< epochs whose samples are scored while one is learnt
  double learning_rate = 2e-3;
  double decay_steps = 10;          ///< see cf::InverseRoot; 0: the learning rate stays
  double kl = 0.03;                 ///< of the velocities (NFT) or transitions (FlowGRPO); 0: none
  std::int64_t evaluate_every = 2;  ///< epochs
  std::int64_t evaluated = 100;     ///< kept-out prompts of each category in an evaluation

  int times = 2;  ///< training times a sample, stratified; 0: nine of ten of the sampling grid
  double beta = 0.5;
  /// Divide advantages by a standard deviation: grows what the last few failures weigh.
  cf::Spread spread = cf::Spread::none;
  double advantage_clip = 1;
  bool informative_only = true;  ///< leave out groups that are all right or all wrong
  bool shared_noise = false;     ///< within a group
  cf::Schedule old_decay = cf::Ramp{.rate = 0.02, .max = 0.95};
  Weighting weighting = Weighting::adaptive;
  Collecting collecting = Collecting::order_2;

  double clip_range = 1e-3;
  double noise_level = 0.7;
  std::int64_t transitions = 3;    ///< trained on, a sample; 0: all but the last
  std::int64_t average_every = 1;  ///< gradient steps
  double average_decay = 0.97;     ///< of the weights that are evaluated
};
//! [settings]

/// What we found best on this task.
//! [recipe]
inline Settings our_settings(Method method) {
  Settings settings{.method = method};
  if (is_grpo(method)) {
    settings.learning_rate = 1e-3;
    settings.kl = 0;
    settings.spread = cf::Spread::global;
  }
  return settings;
}
//! [recipe]

/// As published for Stable Diffusion 3.5.
inline Settings published_settings(Method method) {
  Settings settings{.method = method,
                    .prompts = 48,
                    .gradient_steps = is_grpo(method) ? 2 : 1,
                    .learning_rate = 3e-4,
                    .decay_steps = 0,
                    .kl = is_grpo(method) ? 0.04 : 1e-4};
  settings.times = 0;
  settings.beta = 1;
  settings.spread = cf::Spread::global;
  settings.advantage_clip = 5;
  settings.informative_only = false;
  settings.old_decay = cf::Ramp{.rate = 0.001, .max = 0.5};
  settings.clip_range = 1e-4;
  settings.transitions = 0;
  settings.average_every = is_grpo(method) ? 8 : 1;
  settings.average_decay = 0.9;
  return settings;
}

}  // namespace scenes_example
