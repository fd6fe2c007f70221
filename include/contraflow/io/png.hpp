#pragma once

/// @file
/// Images as PNG files.

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/ops/empty.h>
#include <png.h>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/pixels.hpp>

namespace contraflow {

namespace images {

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

}  // namespace images

/// The bytes of an image as a PNG file of 8 bits a channel.
/// @param image [3, H, W], floating with values in [0, 1] (those outside are clamped, NaN is black)
///   or uint8, on any device
/// @throws Error for another shape or dtype
/// @par Random numbers
/// none
inline std::vector<std::uint8_t> encode_png(const Tensor& image) {
  return images::PngWriter().write(images::pixels_of(image));
}

/// Writes an image as a PNG file, which appears under its name only when it is complete.
/// @param path file to write or replace
/// @param image as for encode_png
/// @throws Error as encode_png does, or for a file that cannot be written
/// @par Random numbers
/// none
inline void write_png(const std::filesystem::path& path, const Tensor& image) {
  const std::vector<std::uint8_t> bytes = encode_png(image);
  write_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace contraflow
