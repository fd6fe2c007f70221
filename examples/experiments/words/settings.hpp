#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "evaluation.hpp"

namespace words_example {

/// What the base is improved by.
enum class Method {
  nft,              ///< negative-aware fine-tuning
  flow_grpo,        ///< without guidance, like the other
  flow_grpo_guided  ///< with guidance in sampling and training, as published
};

/// Names of methods, for the command line and for files.
inline const std::map<std::string, Method>& methods() {
  static const std::map<std::string, Method> names{
      {"nft", Method::nft}, {"grpo", Method::flow_grpo}, {"grpo-guided", Method::flow_grpo_guided}};
  return names;
}
inline std::string name_of(Method method) {
  for (const auto& [name, one] : methods()) {
    if (one == method) return name;
  }
  return "unknown";
}

//! [settings]
/// All that a run can be told; what is written here is the recipe of NFT.
struct Settings {
  Method method = Method::nft;
  std::uint64_t seed = 1;
  std::int64_t epochs = 70;
  std::int64_t prompts = 16;        ///< an epoch
  std::int64_t group_size = 16;     ///< samples a prompt
  std::int64_t gradient_steps = 2;  ///< an epoch
  double learning_rate = 6e-4;
  double decay_steps = 20;          ///< see cf::InverseRoot; 0: the learning rate stays
  double kl = 0.002;                ///< of the velocities (NFT) or transitions (FlowGRPO); 0: none
  std::int64_t evaluate_every = 5;  ///< epochs
  std::int64_t evaluated = 62;      ///< words of training, and as many kept out, in an evaluation
  double average_decay = 0.9;       ///< of the weights that are evaluated

  int times = 4;  ///< training times a sample, stratified
  double beta = 0.1;
  double advantage_clip = 1;
  bool informative_only = true;          ///< leave out groups that are all as good as each other
  double old_most = 0.8;                 ///< largest decay of the old policy
  cf::Spread spread = cf::Spread::none;  ///< what advantages are divided by

  double clip_range = 1e-3;
  double noise_level = 0.7;
  std::int64_t transitions = 3;  ///< trained on, a sample
};
//! [settings]

/// The recipe of a method.
//! [recipe]
inline Settings recipe(Method method) {
  Settings settings{.method = method};
  if (method == Method::nft) return settings;
  settings.learning_rate = 2e-4;
  settings.kl = 0;
  settings.spread = cf::Spread::global;
  return settings;
}
//! [recipe]

}  // namespace words_example
