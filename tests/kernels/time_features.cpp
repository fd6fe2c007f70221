// Fourier features of time against the functions of the standard library in float64.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/kernels/time_features.hpp>

namespace kernels = contraflow::kernels;

TEST_CASE("features of time are sines and cosines of doubling frequencies") {
  constexpr std::int64_t frequencies = kernels::most_frequencies, columns = 2;
  constexpr std::int64_t size = columns + 2 * frequencies;
  std::vector<float> t{0, 0.25F, 0.5F, 1, 1, 1, 0.1F, -0.3F, 3.7F};
  for (int i = 0; i < 1000; ++i) t.push_back(float(i) / 999);
  std::vector<float> x(columns * t.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(i);
  std::vector<float> out(std::size_t(size) * t.size());
  kernels::time_features(std::int64_t(t.size()), columns, frequencies, x.data(), t.data(),
                         out.data());
  double worst = 0;
  for (std::size_t i = 0; i < t.size(); ++i) {
    const float* row = out.data() + i * std::size_t(size);
    CHECK((row[0] == x[columns * i] && row[1] == x[columns * i + 1]));
    for (std::int64_t k = 0; k < frequencies; ++k) {
      const double phase = std::ldexp(double(t[i]), int(k)) * 1.5707963267948966;
      worst = std::max(worst, std::abs(row[columns + k] - std::sin(phase)));
      worst = std::max(worst, std::abs(row[columns + frequencies + k] - std::cos(phase)));
    }
  }
  CHECK(worst < 1.5e-7);
}
