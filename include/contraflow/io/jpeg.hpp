#pragma once

/// @file
/// Images as JPEG files.

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <ATen/ops/empty.h>
#include <jerror.h>
#include <jpeglib.h>

#include <contraflow/core/error.hpp>
#include <contraflow/io/pixels.hpp>

namespace contraflow {

namespace images {

// libjpeg's error manager, followed by what its callbacks need.
struct JpegErrors {
  jpeg_error_mgr manager;
  std::jmp_buf leave;
  Message message;

  // Everything is kept silent; an early end of the data, which libjpeg fills with grey, is an
  // error.
  void install(j_common_ptr common) {
    common->err = jpeg_std_error(&manager);
    manager.error_exit = on_error;
    manager.emit_message = on_message;
    manager.output_message = [](j_common_ptr) {};
  }

  static void on_error(j_common_ptr common) {
    auto* errors = reinterpret_cast<JpegErrors*>(common->err);
    char text[JMSG_LENGTH_MAX];
    common->err->format_message(common, text);
    keep(errors->message, text);
    std::longjmp(errors->leave, 1);
  }

  static void on_message(j_common_ptr common, int level) {
    const int code = common->err->msg_code;
    if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER)) on_error(common);
  }
};

class JpegReader {
 public:
  JpegReader(const std::string& name, Bytes bytes) : name_(name), bytes_(bytes) {
    errors_.install(reinterpret_cast<j_common_ptr>(&jpeg_));
    if (!create()) fail();
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&jpeg_); }

  // Pixels as uint8 [H, W, 3].
  Tensor read() {
    if (!read_header()) fail();
    const Size size{jpeg_.image_width, jpeg_.image_height};
    check_size(name_, size);
    // A block of 64 samples takes a bit at least.
    check_plausible(name_, size.width * size.height,
                    static_cast<std::int64_t>(bytes_.size) * 8 * 64 + 4096);
    Tensor pixels = at::empty({size.height, size.width, 3}, at::kByte);
    if (!read_pixels(pixels.mutable_data_ptr<std::uint8_t>())) fail();
    return pixels;
  }

 private:
  [[noreturn]] void fail() const { throw Error(name_, "a whole JPEG", errors_.message.data()); }

  bool create() {
    if (setjmp(errors_.leave) != 0) return false;
    jpeg_create_decompress(&jpeg_);
    // Progressive files keep their coefficients: of what does not fit here, libjpeg says so.
    jpeg_.mem->max_memory_to_use = 2'000'000'000;
    return true;
  }

  bool read_header() {
    if (setjmp(errors_.leave) != 0) return false;
    jpeg_mem_src(&jpeg_, bytes_.data, static_cast<unsigned long>(bytes_.size));
    jpeg_read_header(&jpeg_, TRUE);
    return true;
  }

  bool read_pixels(std::uint8_t* pixels) {
    if (setjmp(errors_.leave) != 0) return false;
    jpeg_.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg_);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      JSAMPROW row = pixels + std::size_t{3} * jpeg_.output_scanline * jpeg_.output_width;
      jpeg_read_scanlines(&jpeg_, &row, 1);
    }
    jpeg_finish_decompress(&jpeg_);
    return true;
  }

  const std::string& name_;
  Bytes bytes_;
  JpegErrors errors_{};
  jpeg_decompress_struct jpeg_{};
};

class JpegWriter {
 public:
  JpegWriter() {
    errors_.install(reinterpret_cast<j_common_ptr>(&jpeg_));
    if (!create()) fail();
  }
  JpegWriter(const JpegWriter&) = delete;
  JpegWriter& operator=(const JpegWriter&) = delete;
  ~JpegWriter() {
    jpeg_destroy_compress(&jpeg_);
    std::free(data_);
  }

  // Pixels are uint8 [H, W, 3].
  std::vector<std::uint8_t> write(const Tensor& pixels, int quality) {
    jpeg_.image_width = static_cast<JDIMENSION>(pixels.size(1));
    jpeg_.image_height = static_cast<JDIMENSION>(pixels.size(0));
    if (!write_pixels(data_of<const std::uint8_t>(pixels), quality)) fail();
    return {data_, data_ + size_};
  }

 private:
  [[noreturn]] void fail() const {
    throw Error("image", "what libjpeg can write", errors_.message.data());
  }

  bool create() {
    if (setjmp(errors_.leave) != 0) return false;
    jpeg_create_compress(&jpeg_);
    return true;
  }

  bool write_pixels(const std::uint8_t* pixels, int quality) {
    if (setjmp(errors_.leave) != 0) return false;
    jpeg_mem_dest(&jpeg_, &data_, &size_);
    jpeg_.input_components = 3;
    jpeg_.in_color_space = JCS_RGB;
    jpeg_set_defaults(&jpeg_);
    jpeg_set_quality(&jpeg_, quality, TRUE);
    jpeg_start_compress(&jpeg_, TRUE);
    while (jpeg_.next_scanline < jpeg_.image_height) {
      auto* row =
          const_cast<JSAMPROW>(pixels + std::size_t{3} * jpeg_.next_scanline * jpeg_.image_width);
      jpeg_write_scanlines(&jpeg_, &row, 1);
    }
    jpeg_finish_compress(&jpeg_);
    return true;
  }

  unsigned char* data_ = nullptr;
  unsigned long size_ = 0;
  JpegErrors errors_{};
  jpeg_compress_struct jpeg_{};
};

}  // namespace images

/// The bytes of an image as a baseline JPEG file, with libjpeg's defaults: 4:2:0, standard tables.
///
/// The sizes are those of Python's Pillow at the same quality, which published rewards for
/// (in)compressibility use.
/// @param image as for encode_png, of at most 65,500 pixels a side
/// @param quality 1 to 100
/// @throws Error for another shape, dtype or quality
/// @par Random numbers
/// none
inline std::vector<std::uint8_t> encode_jpeg(const Tensor& image, int quality = 95) {
  expects(quality >= 1 && quality <= 100, "quality", "1 to 100", quality);
  return images::JpegWriter().write(images::pixels_of(image), quality);
}

}  // namespace contraflow
