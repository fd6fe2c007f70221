#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iostream>
#include <vector>

namespace support {

/// Compares the first losses of a run with those of a record, and says what came.
/// @param found of every tenth step, as many as are compared
/// @param expected at least as many
/// @return what the program answers: 0 where they agree
inline int compared_losses(const std::vector<double>& found, const std::vector<double>& expected) {
  // Other processors round differently, and training makes that grow.
  constexpr double tolerance = 1e-3;
  double worst = 0;
  bool reproduces = true;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(found[i] / expected.at(i) - 1);
    worst = std::max(worst, difference);
    // Written so that NaN does not.
    reproduces = reproduces && difference < tolerance;
    std::cout << "steps to " << 10 * (i + 1) << ": loss " << found[i] << ", recorded "
              << expected[i] << "\n";
  }
  std::cout << (reproduces ? "the record is reproduced" : "the record is NOT reproduced")
            << ": largest relative difference " << worst << "\n";
  return reproduces ? 0 : 1;
}

}  // namespace support
