// The grid of FLUX.1, and latents as tokens.

#include <cmath>
#include <vector>

#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>

#include <contraflow/flux/flux_config.hpp>
#include <contraflow/flux/packing.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
namespace flux = cf::flux;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;

TEST_CASE("a grid starts at exactly 1, falls, and ends at 0, for any size") {
  for (const int steps : {1, 2, 3, 4, 6, 28, 50, 100}) {
    for (const std::int64_t tokens : {1, 64, 256, 1024, 4096, 16384}) {
      const auto sigmas = flux::grid(steps, tokens).sigmas();
      CHECK(sigmas.size() == std::size_t(steps) + 1);
      CHECK(sigmas.front() == 1);
      CHECK(sigmas.back() == 0);
      CHECK(std::is_sorted(sigmas.rbegin(), sigmas.rend()));
      const double shift = std::exp(flux::mu(tokens));
      for (int i = 0; i < steps; ++i) {
        // u ends at 1 / steps, not at the scheduler's last entry.
        CHECK(sigmas[std::size_t(i)] ==
              Catch::Approx(cf::shift_sigma(1 - double(i) / steps, shift)).epsilon(1e-6));
      }
    }
  }
}

TEST_CASE("the shift grows with the image along one line, beyond its two points too") {
  CHECK(flux::mu(256) == Catch::Approx(0.5));
  CHECK(flux::mu(4096) == Catch::Approx(1.15));
  CHECK(flux::mu(16384) == Catch::Approx(1.15 + (1.15 - 0.5) / 3840 * 12288));
  CHECK(flux::mu(64) < 0.5);
  CHECK(flux::mu(10, {.base_image_seq_len = 10, .max_image_seq_len = 20, .base_shift = 2}) == 2);
}

TEST_CASE("without dynamic shifting sizes do not matter, and a shift of 1 is an even grid") {
  const auto even = flux::grid(4, 77, {.use_dynamic_shifting = false}).sigmas();
  CHECK(even == std::vector<double>{1, 0.75, 0.5, 0.25, 0});
  const flux::GridOptions shifted{.use_dynamic_shifting = false, .shift = 3};
  CHECK(flux::grid(4, 1, shifted).sigmas() == flux::grid(4, 4096, shifted).sigmas());
  CHECK(flux::grid(2, 1, shifted).sigmas()[1] == Catch::Approx(0.75));
  check_error([] { flux::grid(0, 1); }, "steps", "got 0");
  check_error([] { flux::grid(1, 0); }, "tokens", "got 0");
  check_error([] { flux::grid(1, 1, {.shift = 0}); }, "shift", "got 0");
  check_error([] { flux::mu(1, {.max_image_seq_len = 256}); }, "max_image_seq_len", "got 256");
}

TEST_CASE("packing can be undone, and a token is the square at its position") {
  const Tensor latents = laws::floats({2, 3, 6, 10});
  const Tensor tokens = flux::packed(latents), positions = flux::image_positions(3, 5);
  CHECK(tokens.sizes() == at::IntArrayRef{2, 15, 12});
  CHECK(same_bits(flux::unpacked(tokens, 3, 5), latents));
  for (std::int64_t i = 0; i < 15; ++i) {
    const auto row = positions[i][1].item<std::int64_t>(),
               column = positions[i][2].item<std::int64_t>();
    const Tensor square = latents.narrow(2, 2 * row, 2).narrow(3, 2 * column, 2);
    CHECK(same_bits(tokens.select(1, i), square.flatten(1)));
    CHECK(positions[i][0].item<double>() == 0);
  }
  check_error([] { flux::unpacked(at::zeros({1, 6, 12}), 2, 4); }, "tokens", "[B, 8, 4 C]");
}

TEST_CASE("sizes round down to whole tokens") {
  const cf::VaeOptions vae;
  CHECK(flux::latent_shape(512, 512, vae) == std::vector<std::int64_t>{16, 64, 64});
  CHECK(flux::latent_shape(1000, 1400, vae) == std::vector<std::int64_t>{16, 124, 174});
  CHECK(flux::token_count({16, 124, 174}) == 62 * 87);
  check_error([&] { flux::latent_shape(15, 64, vae); }, "height", "got 15");
  check_error([&] { flux::latent_shape(64, 8, vae); }, "width", "got 8");
}
