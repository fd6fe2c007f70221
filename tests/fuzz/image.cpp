// A PNG or JPEG of any bytes is read or refused.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <ATen/ATen.h>

#include <contraflow/io/image.hpp>

#include "fuzz/harness.hpp"

namespace {

std::vector<std::uint8_t> start_of(std::uint8_t which) {
  static const at::Tensor picture =
      at::arange(3 * 12 * 12).remainder(251).view({3, 12, 12}).to(at::kByte);
  static const auto png = contraflow::encode_png(picture), jpeg = contraflow::encode_jpeg(picture);
  return which % 2 == 0 ? png : jpeg;
}

// Most inputs are changes of a valid file, triples of two bytes for the place and one for the byte,
// since random bytes seldom begin a file. The first byte decides.
std::vector<std::uint8_t> file_of(std::string_view input) {
  const std::vector<std::uint8_t> data(input.begin(), input.end());
  if (data.empty()) return data;
  if (data[0] % 4 == 3) return {data.begin() + 1, data.end()};
  std::vector<std::uint8_t> bytes = start_of(data[0]);
  for (std::size_t i = 1; i + 2 < data.size(); i += 3) {
    bytes[(std::size_t{data[i]} << 8 | data[i + 1]) % bytes.size()] = data[i + 2];
  }
  return bytes;
}

}  // namespace

CONTRAFLOW_FUZZ_PROGRAM(image, input) { contraflow::decode_image(file_of(input)); }
