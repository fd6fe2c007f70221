#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <ctime>
#include <utility>
#include <vector>

namespace peer {

/// Of all but the first fifth.
inline double median(std::vector<double> values) {
  values.erase(values.begin(), values.begin() + std::ptrdiff_t(values.size() / 5));
  const auto middle = values.begin() + std::ptrdiff_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Runs epochs and prints their seconds and those of the processor, medians, as the programs in
/// Python do.
/// @param trainer any of the library's
/// @param after_epoch called with the number of each, from 0
template <class Trainer, class F>
void time_epochs(Trainer& trainer, int epochs, F&& after_epoch) {
  std::vector<double> seconds, processor;
  for (int i = 0; i < epochs; ++i) {
    const double before = trainer.seconds();
    const std::clock_t clock = std::clock();
    trainer.run_epoch();
    processor.push_back(double(std::clock() - clock) / CLOCKS_PER_SEC);
    seconds.push_back(trainer.seconds() - before);
    after_epoch(i);
  }
  std::printf("%.6f %.6f\n", median(std::move(seconds)), median(std::move(processor)));
}

}  // namespace peer
