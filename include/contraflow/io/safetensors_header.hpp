#pragma once

/// @file
/// The header of a safetensors file: what it says of its tensors, read without trust.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include <contraflow/core/error.hpp>
#include <contraflow/io/json.hpp>

namespace contraflow {

static_assert(std::endian::native == std::endian::little,
              "safetensors holds little-endian data, and this machine is big-endian");

namespace safetensors {

struct Dtype {
  const char* name;
  at::ScalarType type;
  std::uint64_t size;
};

inline constexpr std::array<Dtype, 12> dtypes{{
    {"F64", at::kDouble, 8},
    {"F32", at::kFloat, 4},
    {"F16", at::kHalf, 2},
    {"BF16", at::kBFloat16, 2},
    {"I64", at::kLong, 8},
    {"I32", at::kInt, 4},
    {"I16", at::kShort, 2},
    {"I8", at::kChar, 1},
    {"U8", at::kByte, 1},
    {"BOOL", at::kBool, 1},
    {"F8_E4M3", at::kFloat8_e4m3fn, 1},
    {"F8_E5M2", at::kFloat8_e5m2, 1},
}};

inline constexpr const char* dtype_names =
    "F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL, F8_E4M3 or F8_E5M2";

inline constexpr std::uint64_t max_header = 100'000'000;

struct Entry {
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::vector<std::uint64_t> data_offsets;
  bool has_dtype = false, has_shape = false, has_data_offsets = false;
};

struct Header {
  std::map<std::string, Entry> entries;
  std::map<std::string, std::string> metadata;
};

// Reads the header while it is parsed: anything but an object of flat entries ends the parse at
// once, and a repeated key is seen, which a parsed document would hide.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(Header& header) : header_(header) {}

  const std::string& complaint() const { return complaint_; }

  bool start_object(std::size_t) override {
    if (level_ == Level::outside) return enter(Level::header);
    if (level_ == Level::header && key_ == "__metadata__") return enter(Level::metadata);
    if (level_ == Level::header) return enter(Level::entry);
    return refuse("an object in " + excerpt(key_));
  }

  bool end_object() override {
    if (level_ == Level::entry &&
        !(entry_->has_dtype && entry_->has_shape && entry_->has_data_offsets)) {
      return refuse("tensor " + excerpt(tensor_) + " without dtype, shape or data_offsets");
    }
    return enter(level_ == Level::header ? Level::outside : Level::header);
  }

  bool key(std::string& name) override {
    key_ = name;
    if (level_ == Level::metadata) {
      const bool fresh = header_.metadata.emplace(name, "").second;
      return fresh || refuse("metadata " + excerpt(name) + " twice");
    }
    if (level_ == Level::entry) return entry_key(name);
    if (name == "__metadata__") {
      return !std::exchange(has_metadata_, true) || refuse("__metadata__ twice");
    }
    const auto [place, fresh] = header_.entries.try_emplace(name);
    tensor_ = name;
    entry_ = &place->second;
    return fresh || refuse("tensor " + excerpt(name) + " twice");
  }

  bool string(std::string& text) override {
    if (level_ == Level::metadata) {
      header_.metadata[key_] = text;
      return true;
    }
    if (level_ == Level::entry && key_ == "dtype") {
      entry_->dtype = text;
      return true;
    }
    return misplaced("a string");
  }

  bool start_array(std::size_t) override {
    if (level_ != Level::entry || key_ == "dtype") return misplaced("an array");
    numbers_ = key_ == "shape" ? &entry_->shape : &entry_->data_offsets;
    return enter(Level::numbers);
  }

  bool end_array() override { return enter(Level::entry); }

  bool number_unsigned(number_unsigned_t number) override {
    if (level_ != Level::numbers) return misplaced("a number");
    numbers_->push_back(number);
    return true;
  }

  bool number_integer(number_integer_t) override { return misplaced("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return misplaced("a number that is not a 64-bit integer");
  }
  bool boolean(bool) override { return misplaced("a boolean"); }
  bool null() override { return misplaced("null"); }
  bool binary(binary_t&) override { return misplaced("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception&) override {
    return refuse("invalid JSON or UTF-8 at byte " + std::to_string(position) + " of the header");
  }

 private:
  enum class Level { outside, header, metadata, entry, numbers };

  bool enter(Level level) {
    level_ = level;
    return true;
  }

  bool refuse(std::string complaint) {
    complaint_ = std::move(complaint);
    return false;
  }

  bool misplaced(const char* what) { return refuse(what + (" in " + excerpt(key_))); }

  bool entry_key(const std::string& name) {
    bool* seen = name == "dtype"          ? &entry_->has_dtype
                 : name == "shape"        ? &entry_->has_shape
                 : name == "data_offsets" ? &entry_->has_data_offsets
                                          : nullptr;
    if (seen == nullptr) {
      return refuse("unknown key " + excerpt(name) + " in tensor " + excerpt(tensor_));
    }
    return !std::exchange(*seen, true) ||
           refuse(excerpt(name) + " twice in tensor " + excerpt(tensor_));
  }

  Header& header_;
  Level level_ = Level::outside;
  std::string key_, tensor_, complaint_;
  Entry* entry_ = nullptr;
  std::vector<std::uint64_t>* numbers_ = nullptr;
  bool has_metadata_ = false;
};

inline Header parse_header(const std::string& path, const char* text, std::uint64_t length) {
  constexpr const char* expected = "a valid safetensors header";
  if (length == 0 || text[0] != '{') {
    throw Error(path, "a safetensors header that begins with {", "another byte or none");
  }
  // The parser would take a zero byte for the end of the text and leave the rest unread.
  if (std::memchr(text, 0, length) != nullptr) throw Error(path, expected, "a zero byte in it");
  Header header;
  HeaderReader reader(header);
  if (!nlohmann::json::sax_parse(text, text + length, &reader)) {
    throw Error(path, expected, reader.complaint());
  }
  return header;
}

inline const Dtype& dtype_named(const std::string& path, const std::string& name,
                                const std::string& dtype) {
  const auto found = std::find_if(dtypes.begin(), dtypes.end(),
                                  [&](const Dtype& known) { return known.name == dtype; });
  if (found == dtypes.end()) {
    throw Error(path, std::string("dtypes ") + dtype_names,
                "dtype " + excerpt(dtype) + " in tensor " + excerpt(name));
  }
  return *found;
}

// Bytes that a tensor of this shape holds. Zeros count as ones in the check for overflow: strides
// are products of the other dimensions.
inline std::uint64_t bytes_of(const std::string& path, const std::string& name,
                              const std::vector<std::uint64_t>& shape, std::uint64_t element_size) {
  constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  std::uint64_t product = element_size;
  bool empty = false;
  for (const std::uint64_t dimension : shape) {
    empty = empty || dimension == 0;
    if (__builtin_mul_overflow(product, std::max<std::uint64_t>(dimension, 1), &product) ||
        product > most) {
      throw Error(path, "shapes whose size in bytes fits 63 bits",
                  "a larger one in tensor " + excerpt(name));
    }
  }
  return empty ? 0 : product;
}

inline void check_entry(const std::string& path, const std::string& name, const Entry& info,
                        std::uint64_t data_size) {
  if (info.data_offsets.size() != 2) {
    throw Error(path, "data_offsets of two numbers",
                std::to_string(info.data_offsets.size()) + " in tensor " + excerpt(name));
  }
  const std::uint64_t bytes =
      bytes_of(path, name, info.shape, dtype_named(path, name, info.dtype).size);
  const std::uint64_t begin = info.data_offsets[0], end = info.data_offsets[1];
  if (begin > end || end > data_size) {
    throw Error(path, "data_offsets inside the file",
                std::to_string(begin) + " to " + std::to_string(end) + " of " +
                    std::to_string(data_size) + " bytes in tensor " + excerpt(name));
  }
  if (end - begin != bytes) {
    throw Error(path, std::to_string(bytes) + " bytes for the shape of tensor " + excerpt(name),
                std::to_string(end - begin));
  }
}

// The tensors have to cover the data, one after the other, without holes or overlaps.
inline void check_layout(const std::string& path, const Header& header, std::uint64_t data_size) {
  using Named = std::pair<const std::string, Entry>;
  std::vector<const Named*> order;
  order.reserve(header.entries.size());
  for (const Named& entry : header.entries) {
    check_entry(path, entry.first, entry.second, data_size);
    order.push_back(&entry);
  }
  std::sort(order.begin(), order.end(), [](const Named* a, const Named* b) {
    return a->second.data_offsets < b->second.data_offsets;
  });
  std::uint64_t reached = 0;
  for (const Named* entry : order) {
    const auto& offsets = entry->second.data_offsets;
    if (offsets[0] != reached) {
      throw Error(path, "tensors without holes or overlaps",
                  "tensor " + excerpt(entry->first) + " at byte " + std::to_string(offsets[0]) +
                      " of the data after an end at byte " + std::to_string(reached));
    }
    reached = offsets[1];
  }
  if (reached != data_size) {
    throw Error(path, "data that ends with the last tensor",
                std::to_string(data_size - reached) + " bytes behind it");
  }
}

}  // namespace safetensors

}  // namespace contraflow
