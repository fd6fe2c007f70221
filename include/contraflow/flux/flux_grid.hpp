#pragma once

/// @file
/// The sampling grid of FLUX.1, which depends on the number of tokens.

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <contraflow/time/grid.hpp>

namespace contraflow::flux {

/// Settings of the grid; the defaults are those of FLUX.1 [dev]. Names are those of the published
/// scheduler_config.json.
struct GridOptions {
  bool use_dynamic_shifting = true;       ///< whether the shift depends on the size; not [schnell]
  double shift = 1;                       ///< for all sizes, where it does not; above 0
  std::int64_t base_image_seq_len = 256;  ///< tokens at which mu is base_shift
  std::int64_t max_image_seq_len = 4096;  ///< tokens at which mu is max_shift; another number
  double base_shift = 0.5;                ///< mu there
  double max_shift = 1.15;                ///< mu there
};

/// The logarithm of the shift for images of a size: on the line through both published points,
/// beyond them too, such as 0.63 at 512 x 512 pixels and 3.23 at 2048 x 2048.
/// @param tokens of the image, at least 1
/// @param options of the model
/// @throws Error if an argument is out of range
inline double mu(std::int64_t tokens, const GridOptions& options = {}) {
  expects_at_least_one(tokens, "tokens");
  expects(options.max_image_seq_len != options.base_image_seq_len, "max_image_seq_len",
          "another number than base_image_seq_len", options.max_image_seq_len);
  const double slope = (options.max_shift - options.base_shift) /
                       double(options.max_image_seq_len - options.base_image_seq_len);
  return double(tokens) * slope + (options.base_shift - slope * double(options.base_image_seq_len));
}

/// The grid of FLUX.1: `sigma = e^mu / (e^mu + 1/u - 1)`, where u runs evenly from 1 to
/// `1 / steps` (as in the published pipeline); without dynamic shifting
/// `sigma = shift u / (1 + (shift - 1) u)`. u does not end at the table's last entry, as it does
/// in sd3_grid() and dynamic_grid().
///
/// Computed in float32, operation by operation, as it is published: the network sees 1000 sigma
/// through sines, and one bit of sigma shows in a sample.
/// @param steps at least 1
/// @param tokens of the image, see mu(); not read without dynamic shifting
/// @param options of the model
/// @return steps + 1 sigmas, the first 1 and the last 0
/// @throws Error if an argument is out of range
inline TimeGrid grid(int steps, std::int64_t tokens, const GridOptions& options = {}) {
  expects(steps >= 1, "steps", "at least 1", steps);
  expects(options.shift > 0, "shift", "above 0", options.shift);
  const auto factor = float(options.use_dynamic_shifting ? std::exp(mu(tokens, options)) : 1);
  const auto shift = float(options.shift), more = float(options.shift - 1);
  const double stride = steps == 1 ? 0 : (1.0 / steps - 1) / (steps - 1);
  std::vector<double> sigmas;
  for (int i = 0; i < steps; ++i) {
    const auto u = float(1 + i * stride);
    const float dynamic = factor / (factor + (1 / u - 1));
    sigmas.push_back(options.use_dynamic_shifting ? dynamic : shift * u / (1 + more * u));
  }
  sigmas.push_back(0);
  return TimeGrid(std::move(sigmas));
}

}  // namespace contraflow::flux
