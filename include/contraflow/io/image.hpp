#pragma once

/// @file
/// Images from PNG and JPEG files to tensors [3, H, W] with values in [0, 1], and back.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/jpeg.hpp>
#include <contraflow/io/pixels.hpp>
#include <contraflow/io/png.hpp>

namespace contraflow {

namespace images {

inline bool begins_with(Bytes bytes, const std::vector<std::uint8_t>& signature) {
  return bytes.size >= signature.size() &&
         std::equal(signature.begin(), signature.end(), bytes.data);
}

inline Tensor decode(const std::string& name, Bytes bytes) {
  if (begins_with(bytes, {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'})) {
    return image_of(PngReader(name, bytes).read());
  }
  if (begins_with(bytes, {0xff, 0xd8, 0xff})) return image_of(JpegReader(name, bytes).read());
  throw Error(name, "a PNG or a JPEG", "another kind of file");
}

}  // namespace images

/// An image out of the bytes of a PNG or JPEG file, whichever they are.
///
/// Grey and palette images become RGB, 16 bits a channel are reduced to 8, transparent pixels are
/// laid on white. Colour profiles and gamma are not applied. JPEGs in CMYK are refused.
///
/// @param bytes the file
/// @return float32 [3, H, W] in [0, 1]
/// @throws Error for another kind of file, one that is damaged or ends early, or more than 2^28
///   pixels
/// @par Random numbers
/// none
inline Tensor decode_image(const std::vector<std::uint8_t>& bytes) {
  return images::decode("bytes", {bytes.data(), bytes.size()});
}

/// An image out of a PNG or JPEG file, whichever it is by its content; see decode_image.
/// @param path file
/// @return float32 [3, H, W] in [0, 1]
/// @throws Error naming the file, as decode_image does and for one that cannot be read
/// @par Random numbers
/// none
inline Tensor read_image(const std::filesystem::path& path) {
  const MappedFile file(path.string());
  return images::decode(path.string(),
                        {reinterpret_cast<const std::uint8_t*>(file.bytes()), file.size()});
}

}  // namespace contraflow
