#pragma once

#include <cmath>
#include <concepts>
#include <vector>

#include <contraflow/reward/concept.hpp>
#include <contraflow/train/prompts.hpp>

#include "archetypes/models.hpp"

namespace archetypes {

/// A PromptSource of captions.
struct CaptionPrompts {
  std::int64_t size() const { return 3; }
  Caption condition(const Tensor& ids) const {
    return select(Caption{{0.5, 1, 2}, at::arange(3, at::kLong)}, ids);
  }
};

/// What rewards are told of prompts: any type, which need not be a Condition.
struct Wishes {
  std::vector<double> heights;
};

/// A PromptSource that tells rewards something else than models.
struct WishfulPrompts : CaptionPrompts {
  Wishes reference(const Tensor& ids) const {
    Wishes wishes;
    for (std::int64_t i = 0; i < ids.numel(); ++i) {
      wishes.heights.push_back(10 * ids[i].item<double>());
    }
    return wishes;
  }
};

/// A Reward under Wishes only: how near the first coordinate comes.
struct GrantsWishes {
  std::vector<double> operator()(const Tensor& x0, const Wishes& wishes) const {
    std::vector<double> scores;
    for (std::size_t i = 0; i < wishes.heights.size(); ++i) {
      scores.push_back(-std::abs(x0[std::int64_t(i)][0].item<double>() - wishes.heights[i]));
    }
    return scores;
  }
};

static_assert(contraflow::PromptSource<CaptionPrompts>);
static_assert(contraflow::PromptSource<WishfulPrompts>);
static_assert(std::same_as<contraflow::ReferenceOf<CaptionPrompts>, Caption>);
static_assert(std::same_as<contraflow::ReferenceOf<WishfulPrompts>, Wishes>);
static_assert(contraflow::Reward<GrantsWishes, Wishes>);
static_assert(!contraflow::Reward<GrantsWishes, Caption>);

}  // namespace archetypes
