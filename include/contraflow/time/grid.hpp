#pragma once

/// @file
/// Sampling grids.

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include <contraflow/core/error.hpp>

namespace contraflow {

/// One step of a sampling grid, from one sigma down to the next.
struct Step {
  double from;        ///< sigma at the start, in (0, 1]
  double to;          ///< sigma at the end, in [0, from)
  std::size_t index;  ///< 0 for the first step of the grid
  std::size_t count;  ///< number of steps of the grid

  /// Whether it is the first step of the grid.
  bool is_first() const { return index == 0; }
  /// Whether it is the last step of the grid.
  bool is_last() const { return index + 1 == count; }
};

/// The sigmas that a solver visits, from noise (1) down towards data (0).
class TimeGrid {
 public:
  /// A grid of the user's.
  /// @param sigmas at least two values in [0, 1], strictly decreasing
  /// @throws Error otherwise
  explicit TimeGrid(std::vector<double> sigmas) : sigmas_(std::move(sigmas)) {
    expects(sigmas_.size() >= 2, "sigmas", "at least two values (one step)", sigmas_.size());
    expects(sigmas_.front() <= 1, "sigmas", "values in [0, 1]", sigmas_.front());
    expects(sigmas_.back() >= 0, "sigmas", "values in [0, 1]", sigmas_.back());
    for (std::size_t i = 1; i < sigmas_.size(); ++i) {
      if (sigmas_[i] < sigmas_[i - 1]) continue;
      throw Error("sigmas", "strictly decreasing values",
                  shown(sigmas_[i]) + " after " + shown(sigmas_[i - 1]));
    }
  }

  /// Number of steps, one less than the number of sigmas.
  std::size_t steps() const { return sigmas_.size() - 1; }
  /// All sigmas, steps() + 1 of them.
  const std::vector<double>& sigmas() const { return sigmas_; }
  /// Step number @p index, counted from 0.
  Step step(std::size_t index) const {
    return {sigmas_[index], sigmas_[index + 1], index, steps()};
  }

 private:
  std::vector<double> sigmas_;
};

/// Equal steps from 1 to 0.
/// @param steps at least 1
/// @throws Error if @p steps < 1
inline TimeGrid uniform_grid(int steps) {
  expects(steps >= 1, "steps", "at least 1", steps);
  std::vector<double> sigmas(static_cast<std::size_t>(steps) + 1);
  for (int i = 0; i <= steps; ++i) sigmas[static_cast<std::size_t>(i)] = 1.0 - double(i) / steps;
  return TimeGrid(std::move(sigmas));
}

/// Settings of the grid of Stable Diffusion 3.
struct Sd3GridOptions {
  double shift = 3;                ///< s in `s u / (1 + (s - 1) u)`, above 0
  int num_train_timesteps = 1000;  ///< size of the table the model was trained with
};

/// The shift of Stable Diffusion 3, `s u / (1 + (s - 1) u)`: more steps where noise is high.
inline double shift_sigma(double u, double shift) { return shift * u / (1 + (shift - 1) * u); }

/// The grid of Stable Diffusion 3 (Esser and others, 2024, section 5.3.2; as in its published
/// scheduler).
///
/// `sigma_i = s u_i / (1 + (s - 1) u_i)`, where u runs linearly from 1 to the last entry of the
/// table `shift(k / num_train_timesteps)`. The shift is thereby applied twice to the last non-zero
/// sigma, as the published scheduler does.
/// @param steps at least 1
/// @param options shift and size of the table
/// @return steps + 1 sigmas, the first 1 and the last 0
/// @throws Error if @p steps < 1 or an option is out of range
inline TimeGrid sd3_grid(int steps, const Sd3GridOptions& options = {}) {
  expects(steps >= 1, "steps", "at least 1", steps);
  expects(options.shift > 0, "shift", "above 0", options.shift);
  expects(options.num_train_timesteps > 1, "num_train_timesteps", "above 1",
          options.num_train_timesteps);
  const double last = shift_sigma(1.0 / options.num_train_timesteps, options.shift);
  std::vector<double> sigmas;
  for (int i = 0; i < steps; ++i) {
    const double share = steps == 1 ? 0.0 : double(i) / (steps - 1);
    sigmas.push_back(shift_sigma(1 + share * (last - 1), options.shift));
  }
  sigmas.push_back(0);
  return TimeGrid(std::move(sigmas));
}

/// mu of a grid that depends on the size of the image: linear from 0.5 at 256 tokens to 1.15 at
/// 4096 (as in the published pipeline of Stable Diffusion 3, where it is off by default).
/// @param tokens number of image tokens, at least 1
inline double dynamic_shift(int tokens) {
  expects(tokens >= 1, "tokens", "at least 1", tokens);
  return 0.5 + (1.15 - 0.5) / (4096 - 256) * (tokens - 256);
}

/// The grid of dynamic shifting: `sigma = e^mu / (e^mu + 1/u - 1)` with u linear from 1 to
/// `1 / num_train_timesteps` (Esser and others 2024, section 5.3.2; as in the published scheduler).
/// @param steps at least 1
/// @param mu logarithm of the shift, see dynamic_shift()
/// @param num_train_timesteps size of the table the model was trained with
/// @return steps + 1 sigmas, the first 1 and the last 0
/// @throws Error if @p steps < 1 or @p num_train_timesteps < 2
inline TimeGrid dynamic_grid(int steps, double mu, int num_train_timesteps = 1000) {
  expects(steps >= 1, "steps", "at least 1", steps);
  expects(num_train_timesteps > 1, "num_train_timesteps", "above 1", num_train_timesteps);
  std::vector<double> sigmas;
  for (int i = 0; i < steps; ++i) {
    const double share = steps == 1 ? 0.0 : double(i) / (steps - 1);
    sigmas.push_back(shift_sigma(1 + share * (1.0 / num_train_timesteps - 1), std::exp(mu)));
  }
  sigmas.push_back(0);
  return TimeGrid(std::move(sigmas));
}

}  // namespace contraflow
