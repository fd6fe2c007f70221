#pragma once

/// @file
/// Rewards on images, for latents.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>
#include <contraflow/network/text_condition.hpp>
#include <contraflow/network/vae.hpp>
#include <contraflow/reward/combination.hpp>

namespace contraflow::pipeline {

/// A bag of rewards on images and captions, as a bag of rewards on latents and encoded prompts:
/// each sample is decoded once, whatever the number of rewards.
/// @tparam Bag a RewardBag under captions, `std::vector<std::string>`
template <class Bag>
class DecodedRewards {
 public:
  static_assert(RewardBag<Bag>,
                "contraflow: DecodedRewards takes a bag of rewards: rewards(...) or a RewardList");

  /// @param vae with its decoder
  /// @param captions that the numbers of prompts in a condition refer to
  /// @param rewards on images [B, 3, H, W] in [0, 1] and captions
  DecodedRewards(std::shared_ptr<Vae> vae, std::vector<std::string> captions, Bag rewards)
      : vae_(std::move(vae)), captions_(std::move(captions)), rewards_(std::move(rewards)) {}

  /// Decodes and scores.
  /// @param latents [B, C, h, w]
  /// @param condition of B rows, with numbers of prompts
  /// @throws Error if a row has no caption
  ScoreSheet score(const Tensor& latents, const TextCondition& condition) const {
    return rewards_.score(vae_->decode(latents), captions_of(condition));
  }
  /// As the rewards do.
  Tensor combine(const Tensor& scores) const { return rewards_.combine(scores); }
  /// As the rewards do.
  Tensor combine_raw(const Tensor& scores) const { return rewards_.combine_raw(scores); }

 private:
  std::vector<std::string> captions_of(const TextCondition& condition) const {
    expects(condition.prompt.defined(), "condition.prompt", "numbers of prompts", "nothing");
    const Tensor numbers = condition.prompt.to(at::kCPU, at::kLong).contiguous();
    std::vector<std::string> captions;
    for (std::int64_t i = 0; i < numbers.numel(); ++i) {
      const auto number = data_of<const std::int64_t>(numbers)[i];
      const bool known = number >= 0 && number < std::int64_t(captions_.size());
      expects(known, "condition.prompt", "numbers of captions", number);
      captions.push_back(captions_[std::size_t(number)]);
    }
    return captions;
  }

  std::shared_ptr<Vae> vae_;
  std::vector<std::string> captions_;
  Bag rewards_;
};

}  // namespace contraflow::pipeline
