#pragma once

/// @file
/// The concept TrainingTimes, and its models.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <optional>
#include <vector>

#include <contraflow/core/random.hpp>
#include <contraflow/time/grid.hpp>

namespace contraflow {

/// Draws the times at which samples are noised for training.
///
/// Valid expression: `times(units, grid, generator)` gives float32 [units, K] in (0, 1].
/// Units are rows of what is drawn. Laws: values lie in [0, 1]; the same generator gives the same
/// bits; where units are named, the times of each go with its name, whatever their order.
template <class T>
concept TrainingTimes = requires(const T& times, std::int64_t units, const TimeGrid& grid,
                                 Generator& generator) {
  { times(units, grid, generator) } -> std::convertible_to<Tensor>;
};

/// The sigmas of a sampling grid, in random order for each sample (DiffusionNFT).
struct GridTimes {
  double fraction = 0.9;              ///< share of the grid's steps used for each sample, in (0, 1]
  int per_sample = 0;                 ///< a number of times instead of a share; 0 follows the share
  std::optional<TimeGrid> grid = {};  ///< whose sigmas; unset: those of the grid that is given

  /// @par Shape
  /// result [units, K]
  Tensor operator()(std::int64_t units, const TimeGrid& given, Generator& generator) const {
    const TimeGrid& used = grid ? *grid : given;
    const auto steps = static_cast<std::int64_t>(used.steps());
    const std::int64_t count = times_of(steps);
    const Tensor sigmas =
        at::tensor(std::vector<double>(used.sigmas().begin(), used.sigmas().end() - 1))
            .to(at::kFloat);
    const Tensor order = uniform({units, steps}, generator)
                             .argsort(/*stable=*/true, /*dim=*/1, /*descending=*/false)
                             .narrow(1, 0, count);
    return sigmas.index_select(0, order.flatten()).view({units, count});
  }

 private:
  std::int64_t times_of(std::int64_t steps) const {
    expects(fraction > 0 && fraction <= 1, "fraction", "a value in (0, 1]", fraction);
    expects(per_sample <= steps, "per_sample", "at most the number of steps of the grid",
            per_sample);
    if (per_sample > 0) return per_sample;
    const double share = std::floor(fraction * static_cast<double>(steps) + 1e-9);
    return std::max<std::int64_t>(1, std::llround(share));
  }
};

/// Independent uniform times.
struct UniformTimes {
  int per_sample = 1;  ///< times of each sample, at least 1
  /// @par Shape
  /// result [units, per_sample]
  Tensor operator()(std::int64_t units, const TimeGrid&, Generator& generator) const {
    expects(per_sample >= 1, "per_sample", "at least 1", per_sample);
    return uniform({units, per_sample}, generator);
  }
};

/// `sigmoid(mean + std n)` with n standard normal (Esser and others, 2024, section 3.1).
struct LogitNormalTimes {
  double mean = 0;     ///< of the logit
  double std = 1;      ///< of the logit, above 0
  int per_sample = 1;  ///< times of each sample, at least 1
  /// @par Shape
  /// result [units, per_sample]
  Tensor operator()(std::int64_t units, const TimeGrid&, Generator& generator) const {
    expects(per_sample >= 1, "per_sample", "at least 1", per_sample);
    expects(std > 0, "std", "above 0", std);
    Tensor times = normal({units, per_sample}, generator);
    // One by one: LibTorch's sigmoid gives other bits at the end of a tensor than within it.
    auto* first = times.mutable_data_ptr<float>();
    std::transform(first, first + times.numel(), first, [this](float number) {
      return static_cast<float>(1 / (1 + std::exp(-(std * double{number} + mean))));
    });
    return times;
  }
};

/// Uniform times, one in each of as many equal strata as times are drawn: lower variance.
///
/// Each sample has one time in each of `per_sample` strata, and within a stratum the samples of
/// the batch have one time in each of its `units` sub-strata.
struct StratifiedTimes {
  int per_sample = 1;  ///< times of each sample, at least 1
  /// @par Shape
  /// result [units, per_sample]
  Tensor operator()(std::int64_t units, const TimeGrid&, Generator& generator) const {
    expects(per_sample >= 1, "per_sample", "at least 1", per_sample);
    const Tensor within = uniform({units, per_sample}, generator);
    std::vector<Tensor> columns;
    for (int k = 0; k < per_sample; ++k) {
      // The rank of a unit's key, not a key's unit: so a unit keeps its place in any order.
      const Tensor place = permutation(units, generator).argsort().to(at::kFloat);
      const Tensor in_stratum = (place + within.select(1, k)) / static_cast<double>(units);
      columns.push_back((in_stratum + k) / static_cast<double>(per_sample));
    }
    return at::stack(columns, 1);
  }
};

}  // namespace contraflow
