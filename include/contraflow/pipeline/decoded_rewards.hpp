#pragma once

/// @file
/// Rewards on images, for latents.

#include <memory>
#include <utility>

#include <contraflow/core/tensor.hpp>
#include <contraflow/network/vae.hpp>
#include <contraflow/reward/combination.hpp>

namespace contraflow::pipeline {

/// A bag of rewards on images as a bag of rewards on latents: each sample is decoded once, whatever
/// the number of rewards. What the prompts tell rewards, such as captions, is passed on.
/// @tparam Bag a RewardBag under the reference of the prompts
template <class Bag>
class DecodedRewards {
 public:
  static_assert(RewardBag<Bag>,
                "contraflow: DecodedRewards takes a bag of rewards: rewards(...) or a RewardList");

  /// @param vae with its decoder
  /// @param rewards on images [B, 3, H, W] in [0, 1]
  DecodedRewards(std::shared_ptr<Vae> vae, Bag rewards)
      : vae_(std::move(vae)), rewards_(std::move(rewards)) {}

  /// Decodes and scores.
  /// @param latents [B, C, h, w]
  /// @param reference of their prompts, B entries
  /// @throws Error if a reward does not give one score a sample
  template <class Reference>
  ScoreSheet score(const Tensor& latents, const Reference& reference) const {
    return rewards_.score(vae_->decode(latents), reference);
  }
  /// As the rewards do.
  Tensor combine(const Tensor& scores, const Tensor& group = {}) const {
    return rewards_.combine(scores, group);
  }
  /// Whether one of the rewards sees whole groups.
  template <class Reference>
  static constexpr bool sees_groups = HasGroupRewards<Bag, Reference>;
  /// Decodes, and fills in the scores of the rewards that see whole groups.
  template <class Reference>
  void score_groups(ScoreSheet& sheet, const Tensor& latents, const Reference& reference,
                    const Tensor& group) const requires(sees_groups<Reference>) {
    rewards_.score_groups(sheet, vae_->decode(latents), reference, group);
  }
  /// As the rewards do.
  RewardComponents components(const Tensor& scores,
                              const Tensor& group) const requires HasComponents<Bag> {
    return rewards_.components(scores, group);
  }
  /// As the rewards do.
  Tensor combine_raw(const Tensor& scores) const { return rewards_.combine_raw(scores); }

 private:
  std::shared_ptr<Vae> vae_;
  Bag rewards_;
};

}  // namespace contraflow::pipeline
