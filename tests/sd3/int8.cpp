// Stable Diffusion with its base in 8 bits: how far off it is, and that it trains as others do.

#include <catch2/catch_test_macros.hpp>

#include <contraflow/sd3/folder.hpp>

#include "laws/int8_base.hpp"
#include "sd3/tiny_folder.hpp"

namespace cf = contraflow;
using laws::floats;

namespace {

auto load(const cf::Placement& placement, cf::sd3::BlockWeights blocks) {
  return cf::sd3::Folder(tiny::shared_folder()).transformer(placement, {.recompute = true}, blocks);
}
cf::TextCondition prompts(std::int64_t rows) {
  const auto options = cf::sd3::tiny_folder().transformer;
  return {floats({rows, 5, options.joint_attention_dim}, 3),
          floats({rows, options.pooled_projection_dim}, 4)};
}

}  // namespace

TEST_CASE("the velocity of Stable Diffusion in 8 bits is off by a hundredth") {
  laws::int8_velocity(load, {floats({4, 16, 8, 8}), laws::exact_times(), prompts(4)});
}

TEST_CASE("Stable Diffusion in 8 bits is trained, resumed to the bits, and no other base") {
  laws::int8_training(load, {.rank = 2, .alpha = 4}, prompts(3), {16, 4, 4});
}
