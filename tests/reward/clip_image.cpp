// Images as CLIP takes them. scripts/check_clip_rewards compares with the Python packages.

#include <cmath>
#include <cstdint>
#include <vector>

#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/clip_image.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using Catch::Approx;
using cf::ClipPreprocessing;
using cf::Tensor;
using laws::check_error;

namespace {

constexpr auto transformers = ClipPreprocessing::transformers;
constexpr auto torchvision = ClipPreprocessing::torchvision;
constexpr auto padded = ClipPreprocessing::padded;

// A grey image without a pattern that a filter could miss.
Tensor pattern(std::int64_t height, std::int64_t width) {
  const Tensor y = at::arange(height, at::kLong).unsqueeze(1), x = at::arange(width, at::kLong);
  return (x * x * 37 + y * 101 + x * y * 53 + 11).remainder(256).to(at::kByte);
}

// What normalisation has done undone: values that were in [0, 1].
Tensor shown(const Tensor& pixels) {
  const Tensor mean = at::tensor({0.48145466, 0.4578275, 0.40821073}).view({3, 1, 1});
  const Tensor std = at::tensor({0.26862954, 0.26130258, 0.27577711}).view({3, 1, 1});
  return pixels * std + mean;
}

Tensor framed(const Tensor& images, std::int64_t size, ClipPreprocessing preprocessing) {
  const Tensor pixels = cf::clip_pixels(images, size, preprocessing);
  CHECK(pixels.sizes() == at::IntArrayRef({images.size(0), 3, size, size}));
  CHECK(pixels.scalar_type() == at::kFloat);
  return shown(pixels);
}

// Images in three shades of one column each.
Tensor columns(std::int64_t height, std::int64_t width) {
  return at::arange(width, at::kFloat).div(width).expand({1, 3, height, width});
}

}  // namespace

TEST_CASE("bytes are resampled as by Pillow's bicubic filter") {
  struct Case {
    std::int64_t in_height, in_width, height, width;
    std::vector<int> expected;  // of Pillow 13.0
  };
  const std::vector<Case> cases{
      {5, 7, 3, 4, {81, 123, 105, 121, 160, 81, 132, 135, 153, 137, 74, 144}},
      {4, 3, 6, 5, {2,   11,  38,  120, 171, 47,  78,  126, 138, 140, 127, 159, 197, 138, 95,
                    219, 175, 105, 77,  66,  134, 157, 176, 85,  25,  31,  136, 255, 108, 0}},
      {9, 9, 9, 4, {53,  113, 111, 52,  151, 111, 125, 185, 135, 107, 158, 152,
                    138, 63,  126, 125, 171, 127, 118, 145, 52,  132, 150, 111,
                    150, 139, 70,  80,  134, 127, 182, 96,  22,  63,  55,  187}},
      {8, 5, 3, 5, {104, 133, 103, 92, 138, 108, 165, 115, 102, 76, 113, 129, 128, 112, 177}},
      {3, 40, 3, 2, {123, 130, 143, 154, 147, 125}},
      {2, 2, 1, 1, {94}},
      {1, 6, 1, 3, {42, 114, 124}},
  };
  for (const Case& c : cases) {
    INFO(c.in_height << " x " << c.in_width << " to " << c.height << " x " << c.width);
    const Tensor result = cf::pillow_bicubic(pattern(c.in_height, c.in_width), c.height, c.width);
    CHECK(at::equal(result, at::tensor(c.expected).view({c.height, c.width}).to(at::kByte)));
  }
}

TEST_CASE("an image of the right size is resampled to itself, and images one by one") {
  const Tensor bytes = pattern(24, 10).view({2, 3, 4, 10});
  CHECK(at::equal(cf::pillow_bicubic(bytes, 4, 10), bytes));
  const Tensor both = cf::pillow_bicubic(bytes, 7, 3);
  CHECK(both.sizes() == at::IntArrayRef({2, 3, 7, 3}));
  CHECK(at::equal(both[1][2], cf::pillow_bicubic(bytes[1][2], 7, 3)));
  CHECK(at::equal(both,
                  cf::pillow_bicubic(bytes.transpose(2, 3).contiguous().transpose(2, 3), 7, 3)));
}

TEST_CASE("an image of CLIP's size is only rounded or not, and normalised") {
  const Tensor images = laws::floats({2, 3, 14, 14}).sigmoid();
  const Tensor bytes = images.mul(255).round().div(255);
  CHECK(laws::relative_distance(framed(images, 14, transformers), bytes) < 1e-6);
  CHECK(laws::relative_distance(framed(images, 14, torchvision), images) < 1e-6);
  CHECK(laws::relative_distance(framed(images, 14, padded), images) < 1e-6);
  const Tensor white = cf::clip_pixels(at::ones({1, 3, 14, 14}), 14, transformers);
  CHECK(white[0][0][0][0].item<double>() == Approx((1 - 0.48145466) / 0.26862954));
  CHECK(white[0][1][0][0].item<double>() == Approx((1 - 0.4578275) / 0.26130258));
  CHECK(white[0][2][0][0].item<double>() == Approx((1 - 0.40821073) / 0.27577711));
}

TEST_CASE("the centre is cut out of the longer side") {
  INFO("of 7 columns of width 4, transformers starts at 1, torchvision at round(1.5) = 2");
  const Tensor wide = columns(4, 7);
  CHECK(laws::relative_distance(framed(wide, 4, transformers)[0][0][0],
                                at::tensor({36.0, 73.0, 109.0, 146.0}) / 255) < 1e-6);
  CHECK(laws::relative_distance(framed(wide, 4, torchvision)[0][0][0],
                                at::tensor({2.0, 3.0, 4.0, 5.0}) / 7) < 1e-6);
  INFO("of 5 both start at 0: round(0.5) is 0");
  CHECK(framed(columns(4, 5), 4, torchvision)[0][0][0][0].abs().item<double>() < 1e-6);
  for (const auto preprocessing : {transformers, torchvision}) {
    INFO("high images are treated as wide ones");
    const Tensor high = wide.transpose(2, 3);
    CHECK(at::allclose(framed(high, 4, preprocessing),
                       framed(wide, 4, preprocessing).transpose(2, 3), 0, 1e-6));
  }
}

TEST_CASE("the longer side fits with black on both ends of the shorter one") {
  const Tensor result = framed(at::ones({1, 3, 4, 10}), 10, padded);
  const Tensor rows = result[0][1].mean(1);
  CHECK(rows.narrow(0, 0, 3).abs().max().item<double>() < 1e-6);
  CHECK((rows.narrow(0, 3, 4) - 1).abs().max().item<double>() < 1e-6);
  CHECK(rows.narrow(0, 7, 3).abs().max().item<double>() < 1e-6);
  INFO("of an odd number of rows the last has one more");
  const Tensor odd = framed(at::ones({1, 3, 5, 10}), 10, padded)[0][0].mean(1);
  CHECK(odd[1].abs().item<double>() < 1e-6);
  CHECK(odd[2].item<double>() == Approx(1));
  CHECK(odd[7].abs().item<double>() < 1e-6);
  INFO("very long images keep a row");
  CHECK(framed(at::ones({1, 3, 1, 100}), 10, padded).sum().item<double>() > 25);
}

TEST_CASE("all ways agree on what a smooth image looks like") {
  const Tensor y = at::linspace(0.2, 0.5, 60).unsqueeze(1), x = at::linspace(0, 0.4, 60);
  const Tensor images = (x + y).expand({1, 3, 60, 60});
  const Tensor reference = framed(images, 20, transformers);
  CHECK((framed(images, 20, torchvision) - reference).abs().max().item<double>() < 0.01);
  CHECK((framed(images, 20, padded) - reference).abs().max().item<double>() < 0.01);
  CHECK(reference.min().item<double>() > 0.2);
}

TEST_CASE("preprocessing refuses what it cannot take") {
  for (const auto preprocessing : {transformers, torchvision, padded}) {
    check_error(
        [&] {
          cf::clip_pixels(at::zeros({3, 8, 8}), 4, preprocessing);
        },
        "images", "[B, 3, H, W], got [3, 8, 8]");
    check_error(
        [&] {
          cf::clip_pixels(at::zeros({1, 3, 8, 8}), 0, preprocessing);
        },
        "size", "at least 1");
  }
  check_error([] { cf::pillow_bicubic(at::zeros({8, 8}), 4, 4); }, "bytes", "uint8");
  check_error([] { cf::pillow_bicubic(Tensor(), 4, 4); }, "bytes", "nothing");
  check_error([] { cf::pillow_bicubic(pattern(4, 4), 0, 4); }, "height", "at least 1");
  check_error([] { cf::pillow_bicubic(pattern(4, 4), 4, 0); }, "width", "at least 1");
}
