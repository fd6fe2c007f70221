#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <png.h>
#include <torch/types.h>

#include <contraflow/io/contact_sheet.hpp>
#include <contraflow/io/image.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using laws::check_error;

namespace {

using Bytes = std::vector<std::uint8_t>;

// Smooth with some detail, in steps of 8 bits.
at::Tensor picture(std::int64_t height, std::int64_t width) {
  const at::Tensor y = at::arange(height, at::kFloat).view({height, 1});
  const at::Tensor x = at::arange(width, at::kFloat).view({1, width});
  const at::Tensor image =
      at::stack({(x / 9 + y / 40).sin(), (y / 7).cos() + 0 * x, (x * y / 99).sin()});
  return (image.mul(0.5).add(0.5) * 255).round() / 255;
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

// A PNG of any colour type and depth, by libpng itself. Rows hold samples as the file does.
Bytes png_of(int colour, int depth, int width, int height, const Bytes& rows,
             bool interlaced = false, const std::vector<png_color>& palette = {},
             const Bytes& transparency = {}) {
  Bytes out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &out,
      [](png_structp p, png_bytep data, std::size_t size) {
        auto* bytes = static_cast<Bytes*>(png_get_io_ptr(p));
        bytes->insert(bytes->end(), data, data + size);
      },
      [](png_structp) {});
  png_set_IHDR(png, info, static_cast<png_uint_32>(width), static_cast<png_uint_32>(height), depth,
               colour, interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (!palette.empty()) png_set_PLTE(png, info, palette.data(), static_cast<int>(palette.size()));
  if (!transparency.empty()) {
    png_set_tRNS(png, info, transparency.data(), static_cast<int>(transparency.size()), nullptr);
  }
  png_write_info(png, info);
  const std::size_t stride = rows.size() / static_cast<std::size_t>(height);
  Bytes copy = rows;
  std::vector<png_bytep> pointers;
  for (int y = 0; y < height; ++y)
    pointers.push_back(copy.data() + static_cast<std::size_t>(y) * stride);
  png_write_image(png, pointers.data());
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  return out;
}

// The pixel at the upper left, as red, green, blue of 255.
std::vector<int> first_pixel(const Bytes& file) {
  const at::Tensor image = cf::decode_image(file);
  std::vector<int> result;
  for (int c = 0; c < 3; ++c) {
    result.push_back(static_cast<int>((image[c][0][0] * 255).round().item<double>()));
  }
  return result;
}

// Where a JPEG states its size.
std::size_t frame_of(const Bytes& jpeg) {
  std::size_t place = 2;
  while (jpeg[place + 1] != 0xc0) {
    place += 2 + static_cast<std::size_t>(jpeg[place + 2]) * 256 + jpeg[place + 3];
  }
  return place;
}

std::string text_of(const Bytes& bytes) { return {bytes.begin(), bytes.end()}; }

// An error, or an image; never anything else.
bool reads(const Bytes& bytes) {
  try {
    const at::Tensor image = cf::decode_image(bytes);
    CHECK(image.dim() == 3);
    CHECK(image.sum().item<double>() >= 0);
    return true;
  } catch (const cf::Error& error) {
    CHECK(error.argument() == "bytes");
    return false;
  }
}

}  // namespace

TEST_CASE("a PNG comes back to the last bit") {
  const TemporaryDirectory directory;
  const auto path = directory / "picture.png";
  const at::Tensor image = picture(33, 50);
  cf::write_png(path, image);
  const at::Tensor read = cf::read_image(path);
  CHECK(read.sizes() == at::IntArrayRef({3, 33, 50}));
  CHECK(read.scalar_type() == at::kFloat);
  CHECK(read.is_contiguous());
  CHECK(largest_difference(read, image) < 1e-7);
  const at::Tensor bytes = (image * 255).round().to(at::kByte);
  CHECK(cf::encode_png(bytes) == cf::encode_png(image));
  CHECK(cf::encode_png(image.to(at::kDouble)) == cf::encode_png(image));
  CHECK(cf::encode_png(image.permute({0, 2, 1}).contiguous().permute({0, 2, 1})) ==
        cf::encode_png(image));
}

TEST_CASE("values are rounded to 8 bits and clamped") {
  const double nan = std::nan("");
  const at::Tensor row =
      at::tensor({-1.0, 0.0, 0.49 / 255, 0.51 / 255, 254.6 / 255, 1.0, 7.0, nan});
  const at::Tensor read = cf::decode_image(cf::encode_png(row.view({1, 1, 8}).expand({3, 1, 8})));
  const at::Tensor expected = at::tensor({0., 0., 0., 1., 255., 255., 255., 0.});
  CHECK((read * 255).round().equal(expected.view({1, 1, 8}).expand({3, 1, 8}).to(at::kFloat)));
}

TEST_CASE("a JPEG is close, and the closer the better") {
  const at::Tensor image = picture(40, 56);
  const Bytes good = cf::encode_jpeg(image, 95), poor = cf::encode_jpeg(image, 20);
  CHECK(good.size() > poor.size());
  CHECK(cf::encode_jpeg(image) == good);
  const at::Tensor read = cf::decode_image(good);
  CHECK(read.sizes() == image.sizes());
  const double near = (read - image).abs().mean().item<double>();
  const double far = (cf::decode_image(poor) - image).abs().mean().item<double>();
  CHECK(near < 0.02);
  CHECK(far > near);
  const TemporaryDirectory directory;
  write_all(directory / "named.png", text_of(good));
  CHECK(cf::read_image(directory / "named.png").equal(read));
}

TEST_CASE("JPEG files have the sizes of Pillow's") {
  const at::Tensor image = at::arange(3 * 24 * 40).remainder(251).view({3, 24, 40}).to(at::kByte);
  CHECK(cf::encode_jpeg(image, 95).size() == 1333);
  CHECK(cf::encode_jpeg(image, 75).size() == 986);
  const Bytes file = cf::encode_jpeg(image, 95);
  // Two by two samples of luma for one of chroma.
  CHECK(file[frame_of(file) + 11] == 0x22);
}

TEST_CASE("every kind of PNG becomes RGB") {
  CHECK(first_pixel(png_of(PNG_COLOR_TYPE_RGB, 8, 1, 1, {10, 20, 30})) == std::vector{10, 20, 30});
  CHECK(first_pixel(png_of(PNG_COLOR_TYPE_GRAY, 8, 1, 1, {77})) == std::vector{77, 77, 77});
  CHECK(first_pixel(png_of(PNG_COLOR_TYPE_GRAY, 1, 8, 1, {0x80})) == std::vector{255, 255, 255});
  CHECK(first_pixel(png_of(PNG_COLOR_TYPE_GRAY, 4, 2, 1, {0x50})) == std::vector{85, 85, 85});
  CHECK(first_pixel(png_of(PNG_COLOR_TYPE_GRAY, 16, 1, 1, {0x12, 0x80})) ==
        std::vector{18, 18, 18});
  CHECK(first_pixel(png_of(PNG_COLOR_TYPE_RGB, 16, 1, 1, {255, 255, 0, 0, 0x80, 0x80})) ==
        std::vector{255, 0, 128});
  CHECK(first_pixel(png_of(PNG_COLOR_TYPE_PALETTE, 8, 1, 1, {1}, false, {{9, 9, 9}, {1, 2, 3}})) ==
        std::vector{1, 2, 3});
}

TEST_CASE("what is transparent lies on white") {
  CHECK(first_pixel(png_of(PNG_COLOR_TYPE_RGBA, 8, 1, 1, {10, 20, 30, 0})) ==
        std::vector{255, 255, 255});
  CHECK(first_pixel(png_of(PNG_COLOR_TYPE_RGBA, 8, 1, 1, {10, 20, 30, 255})) ==
        std::vector{10, 20, 30});
  CHECK(first_pixel(png_of(PNG_COLOR_TYPE_RGBA, 8, 1, 1, {0, 100, 255, 51})) ==
        std::vector{204, 224, 255});
  CHECK(first_pixel(png_of(PNG_COLOR_TYPE_GRAY_ALPHA, 8, 1, 1, {0, 102})) ==
        std::vector{153, 153, 153});
  CHECK(first_pixel(png_of(PNG_COLOR_TYPE_PALETTE, 8, 1, 1, {1}, false, {{9, 9, 9}, {1, 2, 3}},
                           {255, 0})) == std::vector{255, 255, 255});
}

TEST_CASE("an interlaced PNG is read in full") {
  Bytes rows;
  for (int i = 0; i < 13 * 11 * 3; ++i) rows.push_back(static_cast<std::uint8_t>(i * 7));
  const at::Tensor plain = cf::decode_image(png_of(PNG_COLOR_TYPE_RGB, 8, 13, 11, rows));
  const at::Tensor woven = cf::decode_image(png_of(PNG_COLOR_TYPE_RGB, 8, 13, 11, rows, true));
  CHECK(plain.equal(woven));
}

TEST_CASE("what is no image is refused") {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  const auto read = [&] { cf::read_image(path); };
  check_error(read, path.string(), "No such file");
  write_all(path, "");
  check_error(read, path.string(), "a PNG or a JPEG");
  write_all(path, "GIF89a");
  check_error(read, path.string(), "a PNG or a JPEG");
  const std::string png = text_of(cf::encode_png(picture(20, 20)));
  write_all(path, png.substr(0, png.size() / 2));
  check_error(read, path.string(), "a whole PNG");
  const std::string jpeg = text_of(cf::encode_jpeg(picture(20, 20)));
  write_all(path, jpeg.substr(0, jpeg.size() - 30));
  check_error(read, path.string(), "a whole JPEG");
}

TEST_CASE("every truncation is refused") {
  const at::Tensor image = picture(9, 9);
  const Bytes png = cf::encode_png(image), jpeg = cf::encode_jpeg(image);
  for (std::size_t length = 0; length < png.size(); ++length) {
    CHECK_FALSE(reads({png.begin(), png.begin() + static_cast<std::ptrdiff_t>(length)}));
  }
  // The last two bytes only say that the image has ended.
  for (std::size_t length = 0; length + 4 < jpeg.size(); ++length) {
    CHECK_FALSE(reads({jpeg.begin(), jpeg.begin() + static_cast<std::ptrdiff_t>(length)}));
  }
}

TEST_CASE("a header cannot ask for memory that its file does not fill") {
  // Two headers of libpng's own, so that their checksums are right, before the pixels of one row.
  const int height = 1'000'000;
  const Bytes tall = png_of(PNG_COLOR_TYPE_GRAY, 1, 1, height, Bytes(height, 0));
  Bytes png = png_of(PNG_COLOR_TYPE_GRAY, 1, 1, 1, {0});
  constexpr std::ptrdiff_t header_end = 33;
  std::copy_n(tall.begin(), header_end, png.begin());
  check_error([&] { cf::decode_image(png); }, "bytes", "too short for the size");
  Bytes jpeg = cf::encode_jpeg(at::zeros({3, 8, 8}));
  const std::size_t frame = frame_of(jpeg);
  for (std::size_t i = 5; i < 9; ++i) jpeg[frame + i] = 0xff;
  check_error([&] { cf::decode_image(jpeg); }, "bytes", "pixels");
  for (std::size_t i = 5; i < 9; ++i) jpeg[frame + i] = i % 2 == 1 ? 0x20 : 0;
  check_error([&] { cf::decode_image(jpeg); }, "bytes", "too short for the size");
}

TEST_CASE("changed images are read or refused") {
  const at::Tensor image = picture(16, 16);
  std::mt19937 generator(5);
  const auto below = [&](std::size_t bound) { return generator() % bound; };
  Bytes rows(16 * 4, 0x5a);
  const std::vector<Bytes> files{cf::encode_png(image), cf::encode_jpeg(image),
                                 png_of(PNG_COLOR_TYPE_PALETTE, 2, 16, 16, rows, true,
                                        {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}, {0, 0, 0}}, {0, 128})};
  int read = 0, refused = 0;
  for (int round = 0; round < 1500; ++round) {
    Bytes bytes = files[static_cast<std::size_t>(round) % files.size()];
    for (std::size_t changes = 1 + below(4); changes > 0; --changes) {
      // Headers are more telling than pixels.
      const std::size_t place = below(below(2) == 0 ? 200 : bytes.size()) % bytes.size();
      bytes[place] = static_cast<std::uint8_t>(generator());
    }
    (reads(bytes) ? read : refused) += 1;
  }
  CHECK(read > 50);
  CHECK(refused > 300);
}

TEST_CASE("what is no image is not written") {
  const auto refused = [](const at::Tensor& image, const std::string& part) {
    check_error([&] { cf::encode_png(image); }, "image", part);
    check_error([&] { cf::encode_jpeg(image); }, "image", part);
  };
  refused(at::ones({4, 4}), "shape [3, H, W]");
  refused(at::ones({1, 4, 4}), "got [1, 4, 4]");
  refused(at::ones({2, 3, 4, 4}), "shape [3, H, W]");
  refused(at::ones({3, 0, 4}), "shape [3, H, W]");
  refused(at::Tensor(), "shape [3, H, W]");
  refused(at::ones({3, 4, 4}, at::kLong), "a floating dtype or uint8, got Long");
  check_error([] { cf::encode_jpeg(at::ones({3, 4, 4}), 0); }, "quality", "1 to 100");
  check_error([] { cf::encode_jpeg(at::ones({3, 4, 4}), 101); }, "quality", "1 to 100");
  check_error([] { cf::encode_jpeg(at::ones({3, 1, 70'000})); }, "image", "libjpeg");
}

TEST_CASE("a contact sheet lays images in rows on white") {
  const at::Tensor black = at::zeros({3, 2, 3}), wide = at::zeros({3, 1, 5});
  const at::Tensor sheet = cf::contact_sheet({black, wide, black}, 2, 1);
  CHECK(sheet.sizes() == at::IntArrayRef({3, 1 + 2 * 3, 1 + 2 * 6}));
  at::Tensor expected = at::ones({3, 7, 13});
  expected.narrow(1, 1, 2).narrow(2, 1, 3).zero_();
  expected.narrow(1, 1, 1).narrow(2, 7, 5).zero_();
  expected.narrow(1, 4, 2).narrow(2, 1, 3).zero_();
  CHECK(sheet.equal(expected));
  CHECK(cf::contact_sheet({black}, 8, 0).equal(black));
  check_error([] { cf::contact_sheet({}, 2); }, "images", "at least one");
  check_error([&] { cf::contact_sheet({black}, 0); }, "columns", "at least 1");
}
