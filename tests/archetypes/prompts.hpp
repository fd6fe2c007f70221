#pragma once

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

static_assert(contraflow::PromptSource<CaptionPrompts>);

}  // namespace archetypes
