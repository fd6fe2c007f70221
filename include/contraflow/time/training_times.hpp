#pragma once

/// @file
/// The concept TrainingTimes, and its models.

#include <cmath>
#include <concepts>
#include <vector>

#include <contraflow/core/random.hpp>
#include <contraflow/time/grid.hpp>

namespace contraflow {

/// Draws the times at which samples are noised for training.
///
/// Valid expression: `times(units, grid, generator)` gives float32 [units, K] in (0, 1].
/// Laws: values lie in [0, 1]; the same generator state gives the same bits.
template <class T>
concept TrainingTimes = requires(const T& times, std::int64_t units, const TimeGrid& grid,
                                 Generator& generator) {
  { times(units, grid, generator) } -> std::convertible_to<Tensor>;
};

/// The sigmas of the sampling grid, in random order for each sample (DiffusionNFT).
struct GridTimes {
  double fraction = 0.9;  ///< share of the grid's steps used for each sample, in (0, 1]
  int per_sample = 0;     ///< a number of times instead of a share; 0 follows the share

  /// @par Shape
  /// result [units, K]
  Tensor operator()(std::int64_t units, const TimeGrid& grid, Generator& generator) const {
    expects(fraction > 0 && fraction <= 1, "fraction", "a value in (0, 1]", fraction);
    const auto steps = static_cast<std::int64_t>(grid.steps());
    const std::int64_t count =
        per_sample > 0
            ? per_sample
            : std::max<std::int64_t>(
                  1, std::llround(std::floor(fraction * static_cast<double>(steps) + 1e-9)));
    expects(count <= steps, "per_sample", "at most the number of steps of the grid", count);
    const Tensor sigmas =
        at::tensor(std::vector<double>(grid.sigmas().begin(), grid.sigmas().end() - 1))
            .to(at::kFloat);
    const Tensor order = uniform({units, steps}, generator)
                             .argsort(/*dim=*/1, /*descending=*/false)
                             .narrow(1, 0, count);
    return sigmas.index_select(0, order.flatten()).view({units, count});
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
    return (normal({units, per_sample}, generator) * std + mean).sigmoid();
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
    std::vector<Tensor> columns;
    for (int k = 0; k < per_sample; ++k) {
      const Tensor place = permutation(units, generator).to(at::kFloat);
      columns.push_back(((place + uniform({units}, generator)) / static_cast<double>(units) + k) /
                        static_cast<double>(per_sample));
    }
    return at::stack(columns, 1);
  }
};

}  // namespace contraflow
