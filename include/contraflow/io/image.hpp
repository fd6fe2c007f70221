#pragma once

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <jerror.h>
#include <jpeglib.h>
#include <png.h>

#include <contraflow/core/error.hpp>
#include <contraflow/core/tensor.hpp>
#include <contraflow/io/file.hpp>

/// @file
/// Images: PNG and JPEG files from and to tensors [3, H, W] with values in [0, 1].

namespace contraflow {

namespace images {

inline constexpr std::int64_t max_pixels = std::int64_t{1} << 28;

// What a file says of its image before the pixels. Anything of C++ is kept out of the functions
// that libpng and libjpeg may leave by longjmp.
struct Size {
  std::int64_t width = 0, height = 0;
};

using Message = std::array<char, 200>;

struct Bytes {
  const std::uint8_t* data;
  std::size_t size;
};

inline void keep(Message& message, const char* text) {
  std::snprintf(message.data(), message.size(), "%s", text);
}

inline void check_size(const std::string& name, const Size& size) {
  if (size.width < 1 || size.height < 1 || size.width > max_pixels / size.height) {
    throw Error(name, "an image of 1 to " + std::to_string(max_pixels) + " pixels",
                std::to_string(size.width) + " x " + std::to_string(size.height));
  }
}

// A header may promise pixels that a file of this size cannot hold: refused before there is memory
// for them.
inline void check_plausible(const std::string& name, std::int64_t raw_bytes, std::int64_t most) {
  if (raw_bytes > most) {
    throw Error(name, "the data of its pixels", "a file too short for the size it states");
  }
}

// --- PNG

class PngReader {
 public:
  PngReader(const std::string& name, Bytes bytes) : name_(name), rest_(bytes), total_(bytes.size) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      throw Error(name_, "libpng to start", "no memory or another version");
    }
  }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }

  // Pixels as uint8 [H, W, 4].
  Tensor read() {
    if (!read_header()) fail();
    const Size size{png_get_image_width(png_, info_), png_get_image_height(png_, info_)};
    check_size(name_, size);
    // Deflate makes at most 1032 bytes of one.
    check_plausible(name_, static_cast<std::int64_t>(stored_row_) * size.height,
                    static_cast<std::int64_t>(total_) * 1032);
    if (png_get_rowbytes(png_, info_) != static_cast<std::size_t>(size.width) * 4) {
      throw Error(name_, "a PNG that libpng turns into 8-bit RGBA", "another");
    }
    Tensor pixels = at::empty({size.height, size.width, 4}, at::kByte);
    std::vector<png_bytep> rows(static_cast<std::size_t>(size.height));
    auto* first = pixels.mutable_data_ptr<std::uint8_t>();
    for (std::size_t y = 0; y < rows.size(); ++y) {
      rows[y] = first + y * static_cast<std::size_t>(size.width) * 4;
    }
    if (!read_pixels(rows.data())) fail();
    return pixels;
  }

 private:
  [[noreturn]] void fail() const { throw Error(name_, "a whole PNG", message_.data()); }

  static void on_error(png_structp png, png_const_charp text) {
    keep(static_cast<PngReader*>(png_get_error_ptr(png))->message_, text);
    png_longjmp(png, 1);
  }

  static void on_warning(png_structp, png_const_charp) {}

  static void on_read(png_structp png, png_bytep out, std::size_t size) {
    auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
    if (size > reader->rest_.size) png_error(png, "the file ends early");
    std::memcpy(out, reader->rest_.data, size);
    reader->rest_.data += size;
    reader->rest_.size -= size;
  }

  // Gamma and colour profiles are left alone, as image libraries of training code do.
  bool read_header() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_user_limits(png_, 0x7fffffff, 0x7fffffff);
    // What is beside the pixels may not take more memory than a file of text would.
    png_set_chunk_malloc_max(png_, 8'000'000);
    png_set_read_fn(png_, this, on_read);
    png_read_info(png_, info_);
    stored_row_ = png_get_rowbytes(png_, info_);
    png_set_scale_16(png_);
    png_set_expand(png_);
    png_set_gray_to_rgb(png_);
    png_set_add_alpha(png_, 0xff, PNG_FILLER_AFTER);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }

  bool read_pixels(png_bytepp rows) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_read_image(png_, rows);
    png_read_end(png_, nullptr);
    return true;
  }

  const std::string& name_;
  Bytes rest_;
  std::size_t total_, stored_row_ = 0;
  Message message_{};
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

class PngWriter {
 public:
  PngWriter() {
    png_ = png_create_write_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_write_struct(&png_, nullptr);
      throw Error("image", "libpng to start", "no memory or another version");
    }
  }
  PngWriter(const PngWriter&) = delete;
  PngWriter& operator=(const PngWriter&) = delete;
  ~PngWriter() {
    png_destroy_write_struct(&png_, &info_);
    std::free(data_);
  }

  // Pixels are uint8 [H, W, 3].
  std::vector<std::uint8_t> write(const Tensor& pixels) {
    if (!write_pixels(data_of<const std::uint8_t>(pixels), pixels.size(1), pixels.size(0))) {
      throw Error("image", "what libpng can write", message_.data());
    }
    return {data_, data_ + size_};
  }

 private:
  static void on_error(png_structp png, png_const_charp text) {
    keep(static_cast<PngWriter*>(png_get_error_ptr(png))->message_, text);
    png_longjmp(png, 1);
  }

  static void on_warning(png_structp, png_const_charp) {}

  // Memory of C, since an exception of C++ may not pass through libpng.
  static void on_write(png_structp png, png_bytep data, std::size_t size) {
    auto* writer = static_cast<PngWriter*>(png_get_io_ptr(png));
    if (size > writer->capacity_ - writer->size_) {
      const std::size_t capacity = std::max(2 * writer->capacity_, writer->size_ + size);
      void* larger = std::realloc(writer->data_, capacity);
      if (larger == nullptr) png_error(png, "no memory");
      writer->data_ = static_cast<std::uint8_t*>(larger);
      writer->capacity_ = capacity;
    }
    std::memcpy(writer->data_ + writer->size_, data, size);
    writer->size_ += size;
  }

  static void on_flush(png_structp) {}

  bool write_pixels(const std::uint8_t* pixels, std::int64_t width, std::int64_t height) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_user_limits(png_, 0x7fffffff, 0x7fffffff);
    png_set_write_fn(png_, this, on_write, on_flush);
    png_set_IHDR(png_, info_, static_cast<png_uint_32>(width), static_cast<png_uint_32>(height), 8,
                 PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png_, info_);
    for (std::int64_t y = 0; y < height; ++y) png_write_row(png_, pixels + y * width * 3);
    png_write_end(png_, nullptr);
    return true;
  }

  std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0, capacity_ = 0;
  Message message_{};
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

// --- JPEG

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

// --- Tensors

// Pixels as uint8 [H, W, 3], on the CPU.
inline Tensor pixels_of(const Tensor& image) {
  const bool shaped =
      image.defined() && image.dim() == 3 && image.size(0) == 3 && image.numel() > 0;
  expects(shaped, "image", "shape [3, H, W]", shape_text(image));
  const bool bytes = image.scalar_type() == at::kByte;
  expects(bytes || at::isFloatingType(image.scalar_type()), "image", "a floating dtype or uint8",
          image.scalar_type());
  expects(image.size(2) <= max_pixels / image.size(1), "image", "at most 2^28 pixels",
          shape_text(image));
  Tensor values = image.detach().to(at::kCPU);
  if (!bytes) {
    values = (wide(values).nan_to_num(0, 1, 0) * 255).round().clamp(0, 255).to(at::kByte);
  }
  return values.permute({1, 2, 0}).contiguous();
}

// Image [3, H, W] of pixels uint8 [H, W, C]; a fourth channel is how opaque a pixel is on white.
inline Tensor image_of(const Tensor& pixels) {
  Tensor image = pixels.narrow(2, 0, 3).permute({2, 0, 1}).contiguous().to(at::kFloat).div_(255);
  if (pixels.size(2) == 3) return image;
  const Tensor alpha = pixels.select(2, 3).to(at::kFloat).div_(255);
  return image.mul_(alpha).add_(1 - alpha);
}

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

/// An image out of the bytes of a JPEG; see decode_image.
/// @return float32 [3, H, W] in [0, 1]
/// @throws Error as decode_image does, and for a PNG
/// @par Random numbers
/// none
inline Tensor decode_jpeg(const std::vector<std::uint8_t>& bytes) {
  const std::string name = "bytes";
  return images::image_of(images::JpegReader(name, {bytes.data(), bytes.size()}).read());
}

/// The bytes of an image as a PNG file of 8 bits a channel.
/// @param image [3, H, W], floating with values in [0, 1] (those outside are clamped, NaN is black)
///   or uint8, on any device
/// @throws Error for another shape or dtype
/// @par Random numbers
/// none
inline std::vector<std::uint8_t> encode_png(const Tensor& image) {
  return images::PngWriter().write(images::pixels_of(image));
}

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

/// Writes an image as a PNG file, which appears under its name only when it is complete.
/// @param path file to write or replace
/// @param image as for encode_png
/// @throws Error as encode_png does, or for a file that cannot be written
/// @par Random numbers
/// none
inline void write_png(const std::filesystem::path& path, const Tensor& image) {
  const std::vector<std::uint8_t> bytes = encode_png(image);
  PendingFile file(path.string());
  file.write(bytes.data(), bytes.size());
  file.publish();
}

/// Images side by side in rows, on white.
///
/// Each lies in the upper left corner of a cell as large as the largest image, with a margin
/// around.
/// @param images [3, H, W] each, of any sizes, all as for encode_png
/// @param columns images in a row, at least 1
/// @param margin pixels between images and at the border
/// @return float32 [3, H', W'] in [0, 1], in 8-bit steps
/// @throws Error for no images, images that encode_png refuses, or no columns
/// @par Random numbers
/// none
inline Tensor contact_sheet(const std::vector<Tensor>& images, std::int64_t columns,
                            std::int64_t margin = 4) {
  expects(!images.empty(), "images", "at least one", images.size());
  expects(columns >= 1, "columns", "at least 1", columns);
  expects(margin >= 0, "margin", "0 or more", margin);
  std::vector<Tensor> tiles;
  std::int64_t height = 0, width = 0;
  for (const Tensor& image : images) {
    tiles.push_back(images::image_of(images::pixels_of(image)));
    height = std::max(height, tiles.back().size(1));
    width = std::max(width, tiles.back().size(2));
  }
  const auto count = static_cast<std::int64_t>(tiles.size());
  const std::int64_t across = std::min(columns, count), rows = (count + columns - 1) / columns;
  Tensor sheet = at::full(
      {3, margin + rows * (height + margin), margin + across * (width + margin)}, 1.0, at::kFloat);
  for (std::int64_t i = 0; i < count; ++i) {
    const Tensor& tile = tiles[static_cast<std::size_t>(i)];
    sheet.narrow(1, margin + i / columns * (height + margin), tile.size(1))
        .narrow(2, margin + i % columns * (width + margin), tile.size(2))
        .copy_(tile);
  }
  return sheet;
}

}  // namespace contraflow
