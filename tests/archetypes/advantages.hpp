#pragma once

#include <contraflow/advantage/concept.hpp>

namespace archetypes {

/// An Advantage: the sign of the difference to the mean of all, groups or not.
struct PlainAdvantage {
  contraflow::Tensor operator()(const contraflow::Tensor& reward, const contraflow::Tensor&) const {
    return (reward - reward.mean()).sign();
  }
};

static_assert(contraflow::Advantage<PlainAdvantage>);

}  // namespace archetypes
