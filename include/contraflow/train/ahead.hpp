#pragma once

/// @file
/// Whether samples are made an epoch before they are learnt.

#include <cstdint>

namespace contraflow {

/// Scores the samples of the next epoch while one is learnt: a component of a Trainer, for rewards
/// that wait, such as judges over a network.
///
/// An epoch then takes the longer of scoring, and of collecting and learning, not their sum. Its
/// samples were made by the policy as it was one epoch before, whose weights are kept until then. A
/// method that is defined relative to who collected, by the role `old` or by recorded densities,
/// learns against those weights, so that only its data are older; one that is not (regression on
/// good samples, Dpo) takes them as they are. Rewards are called by a thread of the trainer's, one
/// batch after the other; evaluations wait for it.
struct Ahead {
  std::int64_t epochs = 1;  ///< 0: an epoch is scored before it is learnt; 1
};

}  // namespace contraflow
