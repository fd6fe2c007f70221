#pragma once

/// @file
/// The advantages that are offered.

#include <contraflow/advantage/concept.hpp>
#include <contraflow/advantage/groups.hpp>

namespace contraflow {

/// By what the difference to a group's mean is divided.
enum class Spread {
  global,  ///< standard deviation of the rewards of the whole epoch (published default)
  group,   ///< standard deviation of the group's own rewards
  none,    ///< nothing: the plain difference (as in Dr GRPO)
};

/// `(reward - mean of the group) / (std + epsilon)`, population standard deviation.
///
/// As published for DiffusionNFT and Flow-GRPO, in float64; other programs take N - 1 and another
/// guard.
struct GroupAdvantage {
  Spread spread = Spread::global;  ///< by what the difference is divided
  double epsilon = 1e-4;           ///< above 0
  Guard guard = Guard::add;        ///< how epsilon keeps the divisor from zero
  bool unbiased = false;           ///< standard deviations with N - 1

  /// @par Shape
  /// @p reward float64 [N], @p group int64 [N]; result float64 [N]
  /// @throws Error if shapes or types do not fit, or a reward is not finite
  Tensor operator()(const Tensor& reward, const Tensor& group) const {
    expects(epsilon > 0, "epsilon", "above 0", epsilon);
    expects_rewards(reward, group);
    const Tensor values = reward.contiguous();
    const std::span<const double> all(values.data_ptr<double>(),
                                      static_cast<std::size_t>(values.numel()));
    const double global = spread == Spread::global ? divisor(all) : 1;
    return map_groups(reward, group, [&](std::span<const double> r, std::span<double> a) {
      const double mean = mean_of(r);
      const double by = spread == Spread::group ? divisor(r) : global;
      for (std::size_t i = 0; i < r.size(); ++i) a[i] = (r[i] - mean) / by;
    });
  }

 private:
  double divisor(std::span<const double> values) const {
    return guarded(unbiased ? unbiased_std_of(values) : std_of(values), guard, epsilon);
  }
};

/// Ranks within the group, evenly from -1 (worst) to 1 (best); ties share their mean rank.
///
/// Knows no outliers and no scale: for rewards whose differences mean little.
struct RankAdvantage {
  /// @par Shape
  /// @p reward float64 [N], @p group int64 [N]; result float64 [N]
  /// @throws Error if shapes or types do not fit, or a reward is not finite
  Tensor operator()(const Tensor& reward, const Tensor& group) const {
    return map_groups(reward, group, [](std::span<const double> r, std::span<double> a) {
      for (std::size_t i = 0; i < r.size(); ++i) {
        double below_minus_above = 0;
        for (const double other : r) below_minus_above += (other < r[i]) - (other > r[i]);
        a[i] = below_minus_above / static_cast<double>(r.size() - 1);
      }
    });
  }
};

/// `reward - mean of the other rewards of the group`: an unbiased baseline (RLOO, Ahmadian and
/// others, 2024).
struct LeaveOneOut {
  /// @par Shape
  /// @p reward float64 [N], @p group int64 [N]; result float64 [N]
  /// @throws Error if shapes or types do not fit, or a reward is not finite
  Tensor operator()(const Tensor& reward, const Tensor& group) const {
    return map_groups(reward, group, [](std::span<const double> r, std::span<double> a) {
      const double mean = mean_of(r);
      const double size = static_cast<double>(r.size());
      for (std::size_t i = 0; i < r.size(); ++i) a[i] = (r[i] - mean) * size / (size - 1);
    });
  }
};

}  // namespace contraflow
