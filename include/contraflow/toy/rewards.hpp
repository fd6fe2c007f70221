#pragma once

/// @file
/// Rewards of toy tasks.

#include <utility>
#include <vector>

#include <contraflow/toy/mixture.hpp>

namespace contraflow::toy {

/// 1 for samples within a radius of one of some modes of a mixture, else 0.
///
/// The default is the reward of the ring task.
class InModes {
 public:
  /// @param modes numbers of the rewarded modes, in [0, K)
  /// @param radius above 0
  /// @param mixture the modes' owner
  explicit InModes(std::vector<std::int64_t> modes, double radius = 0.4,
                   const Mixture& mixture = ring())
      : radius_(radius) {
    expects(radius > 0, "radius", "above 0", radius);
    expects(!modes.empty(), "modes", "at least one mode", 0);
    for (const std::int64_t mode : modes) {
      expects(mode >= 0 && mode < mixture.means().size(0), "modes",
              "numbers of the mixture's modes", mode);
    }
    centres_ = mixture.means().index_select(0, at::tensor(modes, at::kLong));
  }

  /// @par Shape
  /// @p x0 [B, D]; result [B]
  Tensor operator()(const Tensor& x0) const {
    const Tensor centres = on_device(centres_, x0.device());
    return (at::cdist(wide(x0), centres).amin(1) <= radius_).to(at::kFloat);
  }

 private:
  Tensor centres_;
  double radius_;
};

}  // namespace contraflow::toy
