// FLUX.1 with its base in 8 bits: how far off it is, and that it trains as others do.

#include <catch2/catch_test_macros.hpp>

#include <contraflow/flux/flux_config.hpp>
#include <contraflow/flux/flux_folder.hpp>

#include "flux/tiny_flux.hpp"
#include "laws/int8_base.hpp"

namespace cf = contraflow;
using laws::floats;

namespace {

auto load(const cf::Placement& placement, cf::flux::BlockWeights blocks) {
  return cf::flux::Folder(tiny::dev_folder())
      .transformer(placement, 2, {.recompute = true}, blocks);
}
cf::TextCondition prompts(std::int64_t rows) {
  return {floats({rows, 5, 48}, 3), floats({rows, 16}, 4)};
}

}  // namespace

TEST_CASE("the velocity of FLUX.1 in 8 bits is off by a hundredth") {
  laws::int8_velocity(load, {floats({4, 16, 8, 8}), laws::exact_times(), prompts(4)});
}

TEST_CASE("FLUX.1 in 8 bits is trained, resumed to the bits, and no other base") {
  laws::int8_training(load, {.rank = 2, .alpha = 4, .targets = cf::flux::lora_options().targets},
                      prompts(3), {16, 4, 4});
}

TEST_CASE("the transformer of FLUX.1 takes 12 GB in 8 bits, and 24 in bfloat16") {
  cf::FluxNetwork network(cf::FluxOptions{});
  cf::move_weights(network, {.dtype = at::kBFloat16});
  const auto gigabytes = [&] {
    std::int64_t bytes = 0;
    for (const auto& [name, weight] : cf::named_weights(network)) {
      bytes += weight.numel() * std::int64_t(weight.itemsize());
    }
    return double(bytes) * 1e-9;
  };
  CHECK(std::abs(gigabytes() - 23.80) < 0.01);
  network.keep_blocks_in_int8();
  CHECK(cf::int8_layer_count(network) == 19 * 14 + 38 * 6);
  CHECK(std::abs(gigabytes() - 11.96) < 0.05);
}
