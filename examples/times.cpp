// Times: the grid that samples are generated on, schedules of steps, and times for training.
#include <iostream>

#include <contraflow/time/schedule.hpp>
#include <contraflow/time/training_times.hpp>

namespace cf = contraflow;
using cf::Tensor;

int main() {
  //! [grids]
  const cf::TimeGrid published = cf::sd3_grid(10);                // shift 3, as SD3 samples
  const cf::TimeGrid even = cf::uniform_grid(10);                 // 1, 0.9, ..., 0
  const cf::TimeGrid own({1.0, 0.7, 0.2, 0.0});                   // any that falls strictly
  const cf::Ramp ramp{.rate = 0.0075, .max = 0.999, .flat = 75};  // the old policy's, type 2
  const cf::Cosine cosine{.steps = 1000, .warm_up = 50};          // a learning rate's
  const cf::LogitNormalTimes times{.mean = 0, .std = 1};          // for training
  cf::Generator generator = cf::seeded(0);
  const Tensor t = times(/*units=*/16, published, generator);  // [16, 1]
  //! [grids]
  for (const double sigma : published.sigmas()) std::cout << sigma << ' ';
  std::cout << "\nlearning rate after 25 steps " << cosine(24) << ", after 500 " << cosine(500)
            << '\n';
  return even.sigmas().back() == 0 && own.steps() == 3 && ramp(75) == 0 && t.size(0) == 16 ? 0 : 1;
}
