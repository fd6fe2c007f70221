// Images as pictures of reports.

#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <catch2/catch_test_macros.hpp>

#include <contraflow/observe/picture.hpp>

#include "laws/errors.hpp"

namespace cf = contraflow;

TEST_CASE("a picture holds an image's name, size and pixels") {
  const at::Tensor image = at::arange(3 * 4 * 5).view({3, 4, 5}).to(at::kByte);
  const cf::Picture picture = cf::picture_of("samples", image);
  CHECK(picture.name == "samples");
  CHECK(picture.width == 5);
  CHECK(picture.height == 4);
  const std::vector<std::uint8_t> bytes(picture.png.begin(), picture.png.end());
  CHECK(bytes == cf::encode_png(image));
}

TEST_CASE("what is no image is no picture") {
  laws::check_error([] { cf::picture_of("samples", at::zeros({2, 4, 5})); }, "image", "3");
}
