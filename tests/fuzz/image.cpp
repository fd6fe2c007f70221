// A PNG or JPEG of any bytes is read or refused.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <ATen/ATen.h>

#include <contraflow/io/image.hpp>

namespace {

std::vector<std::uint8_t> start_of(std::uint8_t which) {
  static const at::Tensor picture =
      at::arange(3 * 12 * 12).remainder(251).view({3, 12, 12}).to(at::kByte);
  static const auto png = contraflow::encode_png(picture), jpeg = contraflow::encode_jpeg(picture);
  return which % 2 == 0 ? png : jpeg;
}

// Inputs are changes of a valid file, pairs of place and byte: random bytes seldom begin a file.
std::vector<std::uint8_t> file_of(const std::uint8_t* data, std::size_t size) {
  if (size == 0 || data[0] % 4 == 3) return {data, data + size};
  std::vector<std::uint8_t> bytes = start_of(data[0]);
  for (std::size_t i = 1; i + 2 < size; i += 3) {
    bytes[(std::size_t{data[i]} << 8 | data[i + 1]) % bytes.size()] = data[i + 2];
  }
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    contraflow::decode_image(file_of(data, size));
  } catch (const contraflow::Error&) {
  }
  return 0;
}
