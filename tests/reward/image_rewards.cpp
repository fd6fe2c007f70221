// Rewards on images that need no weights.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/combination.hpp>
#include <contraflow/reward/image_measures.hpp>
#include <contraflow/reward/jpeg_size.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "laws/reward.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using Catch::Approx;
using cf::Tensor;
using laws::check_error;

namespace {

Tensor colour(double red, double green, double blue) {
  return at::tensor({red, green, blue}, at::kFloat).view({3, 1, 1});
}

// One image of one colour.
Tensor plain(double red, double green, double blue, std::int64_t side = 16) {
  return colour(red, green, blue).expand({1, 3, side, side}).contiguous();
}

// Images of noise between 0 and 1.
Tensor noise(std::int64_t count = 5, std::int64_t side = 24) {
  return laws::floats({count, 3, side, side}).sigmoid();
}

Tensor blurred(const Tensor& images) {
  return at::avg_pool2d(images, {3, 3}, {1, 1}, {1, 1}, false, /*count_include_pad=*/false);
}

double one(const Tensor& scores) { return scores.item<double>(); }

template <class R>
void check_input(const R& reward) {
  check_error([&] { reward(Tensor()); }, "images", "[B, 3, H, W], got nothing");
  check_error([&] { reward(at::zeros({3, 8, 8})); }, "images", "got [3, 8, 8]");
  check_error([&] { reward(at::zeros({2, 1, 8, 8})); }, "images", "got [2, 1, 8, 8]");
  check_error([&] { reward(at::zeros({0, 3, 8, 8})); }, "images", "got [0, 3, 8, 8]");
  check_error([&] { reward(at::zeros({2, 3, 8, 8}, at::kByte)); }, "images", "floating-point");
}

template <class R>
void check_reward(const R& reward) {
  static_assert(cf::Reward<R, cf::Captions>);
  laws::reward(reward, noise());
  check_input(reward);
  const Tensor images = noise();
  CHECK(reward(images).scalar_type() == at::kFloat);
  CHECK(reward(images.to(at::kDouble)).sizes() == at::IntArrayRef({5}));
  CHECK(reward(images.to(at::kHalf)).scalar_type() == at::kFloat);

  INFO("what is outside of [0, 1] counts as what is shown");
  const Tensor wide = 4 * images - 1.5;
  CHECK(at::equal(reward(wide), reward(wide.clamp(0, 1))));

  INFO("an image that is not finite has no score, the others keep theirs");
  for (const double broken : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    Tensor spoilt = images.clone();
    spoilt[1][2][3][4] = broken;
    const Tensor scores = reward(spoilt), before = reward(images);
    CHECK(std::isnan(scores[1].item<float>()));
    CHECK(at::equal(scores.index_select(0, at::tensor({0, 2, 3, 4})),
                    before.index_select(0, at::tensor({0, 2, 3, 4}))));
  }
}

}  // namespace

TEST_CASE("image rewards keep the laws of rewards and refuse what is no image") {
  check_reward(cf::JpegIncompressibility{});
  check_reward(cf::JpegCompressibility{});
  check_reward(cf::Brightness{});
  check_reward(cf::Colourfulness{});
  check_reward(cf::Sharpness{});
  check_reward(cf::Palette{.colours = laws::floats({4, 3}).sigmoid()});
}

TEST_CASE("image rewards leave the images as they are") {
  const Tensor images = noise(), before = images.clone();
  cf::JpegIncompressibility{}(images);
  cf::Colourfulness{}(images);
  cf::Sharpness{}(images);
  cf::Palette{.colours = at::zeros({2, 3})}(images);
  CHECK(at::equal(images, before));
}

TEST_CASE("image rewards combine under captions") {
  const auto bag = cf::rewards("bright"_r = cf::Brightness{}, "sharp"_r = cf::Sharpness{});
  const cf::ScoreSheet sheet = bag.score(noise(2), cf::Captions{"a cat", "a dog"});
  CHECK(sheet.failures.empty());
  CHECK(sheet.scores.isfinite().all().item<bool>());
}

TEST_CASE("the JPEG rewards are the size of the file in kB") {
  const Tensor images = noise(2, 64);
  const auto bytes = cf::encode_jpeg(images[1].mul(255).round().to(at::kByte), 95);
  const Tensor sizes = cf::JpegIncompressibility{}(images);
  CHECK(sizes[1].item<float>() == Approx(double(bytes.size()) / 1000));
  CHECK(at::equal(cf::JpegCompressibility{}(images), -sizes));
  CHECK(at::equal(cf::JpegCompressibility{.quality = 40}(images),
                  -cf::JpegIncompressibility{.quality = 40}(images)));
  CHECK((cf::JpegIncompressibility{.quality = 40}(images) < sizes).all().item<bool>());

  INFO("noise takes more than what is blurred, and that more than one colour");
  const Tensor soft = cf::JpegIncompressibility{}(blurred(images));
  CHECK((soft < sizes).all().item<bool>());
  CHECK(one(cf::JpegIncompressibility{}(plain(0.2, 0.6, 0.4, 64))) < soft.min().item<double>());
}

TEST_CASE("the JPEG rewards refuse a quality that there is not") {
  for (const int quality : {0, -1, 101}) {
    check_error([&] { cf::JpegIncompressibility{quality}(noise()); }, "quality", "from 1 to 100");
    check_error([&] { cf::JpegCompressibility{quality}(noise()); }, "quality", "from 1 to 100");
  }
}

TEST_CASE("brightness is mean luma") {
  const cf::Brightness brightness;
  CHECK(one(brightness(plain(0, 0, 0))) == 0);
  CHECK(one(brightness(plain(1, 1, 1))) == Approx(1));
  CHECK(one(brightness(plain(1, 0, 0))) == Approx(0.2126));
  CHECK(one(brightness(plain(0, 1, 0))) == Approx(0.7152));
  CHECK(one(brightness(plain(0, 0, 1))) == Approx(0.0722));
  const Tensor images = noise();
  CHECK((brightness(images * 0.9 + 0.1) > brightness(images)).all().item<bool>());
}

TEST_CASE("colourfulness is that of Hasler and Suesstrunk") {
  const cf::Colourfulness colourfulness;
  INFO("greys have none, however they vary");
  CHECK(colourfulness(noise().select(1, 0).unsqueeze(1).expand({-1, 3, -1, -1}))
            .abs()
            .max()
            .item<double>() < 1e-3);
  INFO("one colour has no spread: rg = 255, yb = 127.5");
  CHECK(one(colourfulness(plain(1, 0, 0))) == Approx(0.3 * std::hypot(255, 127.5)));
  INFO("half red, half blue: rg is 255 or 0, yb 127.5 or -255");
  const Tensor halves = at::cat({plain(1, 0, 0), plain(0, 0, 1)}, 2);
  CHECK(one(colourfulness(halves)) ==
        Approx(std::hypot(127.5, 191.25) + 0.3 * std::hypot(127.5, 63.75)));
  INFO("faded colours are less colourful");
  const Tensor images = noise();
  const Tensor grey = images.mean(1, /*keepdim=*/true);
  CHECK((colourfulness(0.5 * images + 0.5 * grey) < colourfulness(images)).all().item<bool>());
}

TEST_CASE("sharpness is the variance of the Laplacian") {
  const cf::Sharpness sharpness;
  CHECK(one(sharpness(plain(0.3, 0.5, 0.7))) < 1e-6);
  INFO("a white pixel in the middle of 5 x 5 gives -4 once, 1 four times and 0 four times");
  Tensor dot = at::zeros({1, 3, 5, 5});
  dot.select(2, 2).select(2, 2).fill_(1);
  CHECK(one(sharpness(dot)) == Approx(20.0 / 9 * 255 * 255));
  INFO("a ramp has no second derivative");
  const Tensor ramp = at::linspace(0, 1, 16).expand({1, 3, 16, 16});
  CHECK(one(sharpness(ramp)) < 1e-6);
  const Tensor images = noise();
  CHECK((sharpness(blurred(images)) < sharpness(images)).all().item<bool>());
  check_error([&] { sharpness(at::zeros({1, 3, 2, 8})); }, "images", "at least 3 x 3 pixels");
}

TEST_CASE("an image in the palette's colours scores 1, others fall off") {
  const Tensor colours = at::cat({colour(1, 0, 0), colour(0, 0, 1)}, 1).squeeze(2).t();
  const Tensor halves = at::cat({plain(1, 0, 0), plain(0, 0, 1)}, 2);
  const cf::Palette palette{.colours = colours, .width = 0.5};
  CHECK(one(palette(halves)) == 1);
  INFO("at one width from the nearest colour a pixel counts exp(-1/2)");
  CHECK(one(palette(plain(0.5, 0, 0))) == Approx(std::exp(-0.5)));
  INFO("pixels count alike");
  CHECK(one(palette(at::cat({plain(1, 0, 0), plain(0.5, 0, 0)}, 3))) ==
        Approx(0.5 + 0.5 * std::exp(-0.5)));
  INFO("the order of the colours is none");
  const cf::Palette reversed{.colours = colours.flip(0), .width = 0.5};
  CHECK(at::equal(reversed(noise()), palette(noise())));
  INFO("a narrower palette is stricter");
  const cf::Palette strict{.colours = colours, .width = 0.1};
  CHECK((strict(noise()) < palette(noise())).all().item<bool>());
}

TEST_CASE("a palette that is none is refused") {
  const auto with = [](const Tensor& colours, double width) {
    return [=] { cf::Palette{.colours = colours, .width = width}(noise()); };
  };
  check_error(with(Tensor(), 0.1), "colours", "[K, 3], got nothing");
  check_error(with(at::zeros({0, 3}), 0.1), "colours", "[0, 3]");
  check_error(with(at::zeros({3}), 0.1), "colours", "[3]");
  check_error(with(at::zeros({2, 4}), 0.1), "colours", "[2, 4]");
  check_error(with(at::zeros({2, 3}), 0), "width", "above 0");
  check_error(with(at::zeros({2, 3}), std::nan("")), "width", "above 0");
}
