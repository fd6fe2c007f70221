#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <nlohmann/json.hpp>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/settings.hpp>

/// @file
/// Tensors in the safetensors format: eight bytes of header length, a JSON header, then the data.

namespace contraflow {

static_assert(std::endian::native == std::endian::little,
              "safetensors holds little-endian data, and this machine is big-endian");

/// What a safetensors file holds.
struct SafetensorsFile {
  std::map<std::string, at::Tensor> tensors;    ///< by name, on the CPU
  std::map<std::string, std::string> metadata;  ///< texts of the header
};

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

using detail::excerpt;

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

// The tensors have to cover the data, one after the other, without holes or overlaps.
inline void check_layout(const std::string& path, const Header& header, std::uint64_t data_size) {
  using Named = std::pair<const std::string, Entry>;
  std::vector<const Named*> order;
  order.reserve(header.entries.size());
  for (const Named& entry : header.entries) {
    const auto& [name, info] = entry;
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

inline at::Tensor view(const std::string& path, const std::string& name, const Entry& entry,
                       char* data, const std::shared_ptr<const MappedFile>& file) {
  const Dtype& dtype = dtype_named(path, name, entry.dtype);
  const std::vector<std::int64_t> shape(entry.shape.begin(), entry.shape.end());
  const std::uint64_t bytes = entry.data_offsets[1] - entry.data_offsets[0];
  if (bytes == 0) return at::empty(shape, dtype.type);
  // Any other byte in a bool is undefined behaviour for whoever reads it.
  if (dtype.type == at::kBool &&
      std::any_of(data, data + bytes, [](char byte) { return byte != 0 && byte != 1; })) {
    throw Error(path, "bytes 0 and 1 in BOOL tensors", "another in tensor " + excerpt(name));
  }
  if (reinterpret_cast<std::uintptr_t>(data) % dtype.size != 0) {
    at::Tensor copy = at::empty(shape, dtype.type);
    std::memcpy(copy.mutable_data_ptr(), data, bytes);
    return copy;
  }
  return at::from_blob(
      data, shape, [file](void*) {}, at::TensorOptions(dtype.type));
}

inline const Dtype& dtype_of(const std::string& name, at::ScalarType type) {
  const auto found = std::find_if(dtypes.begin(), dtypes.end(),
                                  [&](const Dtype& known) { return known.type == type; });
  if (found == dtypes.end()) {
    throw Error("tensors", std::string("dtypes ") + dtype_names,
                std::string(c10::toString(type)) + " in " + excerpt(name));
  }
  return *found;
}

inline void check_writable(const std::string& name, const at::Tensor& tensor) {
  if (!tensor.defined()) throw Error("tensors", "defined tensors", excerpt(name) + " undefined");
  if (tensor.layout() != at::kStrided) {
    throw Error("tensors", "dense tensors", excerpt(name) + " with another layout");
  }
  if (tensor.is_meta()) throw Error("tensors", "tensors with values", excerpt(name) + " on meta");
}

inline std::string json_text(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw Error("tensors", "names and metadata in UTF-8", excerpt(text));
  }
}

}  // namespace safetensors

/// What a safetensors file says of a tensor before its data.
struct TensorInfo {
  std::string name;                 ///< in UTF-8, not "__metadata__"
  at::ScalarType dtype;             ///< one that read_safetensors knows
  std::vector<std::int64_t> shape;  ///< possibly of rank 0, or with zeros
};

namespace safetensors {

inline std::uint64_t bytes_of(const TensorInfo& info) {
  const Dtype& dtype = dtype_of(info.name, info.dtype);
  const bool negative = std::any_of(info.shape.begin(), info.shape.end(),
                                    [](std::int64_t dimension) { return dimension < 0; });
  if (negative) throw Error("tensors", "shapes without negatives", excerpt(info.name));
  return bytes_of("tensors", info.name, {info.shape.begin(), info.shape.end()}, dtype.size);
}

inline std::string header_text(const std::vector<TensorInfo>& tensors,
                               const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  const auto separate = [](std::string& list) {
    if (list.back() != '{' && list.back() != '[') list += ',';
  };
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      separate(text);
      text += json_text(key) + ":" + json_text(value);
    }
    text += "}";
  }
  std::uint64_t offset = 0;
  for (const TensorInfo& info : tensors) {
    separate(text);
    text += json_text(info.name) + ":{\"dtype\":\"" + dtype_of(info.name, info.dtype).name +
            "\",\"shape\":[";
    for (const std::int64_t dimension : info.shape) {
      separate(text);
      text += std::to_string(dimension);
    }
    const std::uint64_t end = offset + bytes_of(info);
    text += "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(end) + "]}";
    offset = end;
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

// Where the weights of a folder's network are, in the order of preference.
inline std::vector<std::string> names_of_weights(const std::string& stem,
                                                 const std::string& variant) {
  if (variant.empty()) return {stem + ".safetensors", stem + ".safetensors.index.json"};
  return {stem + "." + variant + ".safetensors", stem + ".safetensors.index." + variant + ".json"};
}

// The files that an index names, each with the tensors it should hold.
inline std::map<std::string, std::set<std::string>> shards_of(const Settings& index) {
  std::map<std::string, std::set<std::string>> shards;
  const Settings map = index.section("weight_map");
  for (const auto& entry : map.json().items()) {
    const std::string file = map.text(entry.key());
    const bool plain = !file.empty() && file != "." && file != ".." &&
                       file.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
    if (!plain) throw Error(index.name(), "names of files in its folder", excerpt(file));
    shards[file].insert(entry.key());
  }
  return shards;
}

}  // namespace safetensors

/// Reads a safetensors file.
///
/// The file is mapped, not copied: a tensor's pages are read when it is first used, and the map
/// lives as long as any of its tensors. The map is private, so writing into a tensor changes this
/// process's copy of the page and never the file; `clone()` what is trained, to have it in ordinary
/// memory. A tensor that the file does not align to its element size is copied.
///
/// The header is not trusted: every length, offset, shape and name is checked before use.
///
/// @param path file in the safetensors format, dtypes F64, F32, F16, BF16, I64, I32, I16, I8, U8,
///   BOOL, F8_E4M3 and F8_E5M2; rank 0 and empty tensors are legal. It must not be truncated by
///   another process while tensors of it live.
/// @return tensors on the CPU, by name, and the metadata
/// @throws Error naming the file, for one that cannot be read or breaks any rule of the format
/// @par Random numbers
/// none
inline SafetensorsFile read_safetensors(const std::filesystem::path& path) {
  using namespace safetensors;
  const std::string name = path.string();
  const auto file = std::make_shared<const MappedFile>(name);
  constexpr std::uint64_t prefix = 8;
  if (file->size() < prefix) {
    throw Error(name, "at least 8 bytes", std::to_string(file->size()));
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file->bytes(), prefix);
  if (length > max_header) {
    throw Error(name, "a header of at most " + std::to_string(max_header) + " bytes",
                std::to_string(length));
  }
  if (length > file->size() - prefix) {
    throw Error(
        name, "a header inside the file",
        "one of " + std::to_string(length) + " bytes in a file of " + std::to_string(file->size()));
  }
  Header header = parse_header(name, file->bytes() + prefix, length);
  char* data = file->bytes() + prefix + length;
  check_layout(name, header, file->size() - prefix - length);

  SafetensorsFile result;
  result.metadata = std::move(header.metadata);
  for (const auto& [key, entry] : header.entries) {
    result.tensors.emplace(key, view(name, key, entry, data + entry.data_offsets[0], file));
  }
  return result;
}

/// Reads the parts of a large network as one file.
///
/// Every part is mapped, as read_safetensors does. The index is not trusted: the parts are files of
/// its own folder, and each holds exactly the tensors that the index says.
///
/// @param index JSON whose `weight_map` maps names of tensors to names of files beside it, such as
///   `model.safetensors.index.json`
/// @return tensors of all parts; of metadata that parts repeat, the first part's
/// @throws Error naming the file, for an index or a part that cannot be read or do not fit
/// @par Random numbers
/// none
inline SafetensorsFile read_safetensors_sharded(const std::filesystem::path& index) {
  using namespace safetensors;
  const Settings settings(index);
  SafetensorsFile result;
  for (const auto& [file, names] : shards_of(settings)) {
    const std::filesystem::path path = index.parent_path() / file;
    SafetensorsFile part = read_safetensors(path);
    for (const std::string& name : names) {
      if (!part.tensors.contains(name)) {
        throw Error(path.string(),
                    "tensor " + excerpt(name) + ", which " + settings.name() + " names", "none");
      }
    }
    for (auto& [name, tensor] : part.tensors) {
      if (!names.contains(name)) {
        throw Error(path.string(), "only tensors that " + settings.name() + " places there",
                    excerpt(name));
      }
    }
    result.tensors.merge(part.tensors);
    result.metadata.merge(part.metadata);
  }
  return result;
}

/// Reads the weights in a network's folder, in one file or in parts.
/// @param folder where `<stem>.safetensors` is, else `<stem>.safetensors.index.json` and its parts
/// @param stem `model` in folders of transformers, `diffusion_pytorch_model` in those of diffusers
/// @param variant such as `fp16`, for `<stem>.fp16.safetensors` or
/// `<stem>.safetensors.index.fp16.json`
/// @throws Error naming the folder and what was looked for, or as the readers do
/// @par Random numbers
/// none
inline SafetensorsFile read_weights(const std::filesystem::path& folder,
                                    const std::string& stem = "model",
                                    const std::string& variant = "") {
  const auto names = safetensors::names_of_weights(stem, variant);
  const auto exists = [&](const std::string& name) {
    std::error_code unreadable;
    return std::filesystem::exists(folder / name, unreadable);
  };
  if (exists(names[0])) return read_safetensors(folder / names[0]);
  if (exists(names[1])) return read_safetensors_sharded(folder / names[1]);
  throw Error(folder.string(), names[0] + " or " + names[1] + " in it", "neither");
}

/// Writes a safetensors file tensor by tensor, for files larger than memory.
///
/// Names, dtypes and shapes are stated first, then the tensors are given one after the other. The
/// file appears under its name only with publish(); without it, nothing is left behind.
class SafetensorsWriter {
 public:
  /// @param path file to write or replace
  /// @param tensors what will be written, in this order; with larger element sizes first, every
  ///   tensor can be mapped in place
  /// @param metadata texts in UTF-8
  /// @throws Error for a name twice or not in UTF-8, an unknown dtype, or a file that cannot be
  ///   created
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                    const std::map<std::string, std::string>& metadata = {})
      : tensors_(std::move(tensors)),
        header_(checked_header(tensors_, metadata)),
        file_(path.string()) {
    const std::uint64_t length = header_.size();
    file_.write(&length, sizeof(length));
    file_.write(header_.data(), length);
    header_.clear();
  }

  /// Appends the next tensor.
  /// @param name has to be the next of those stated
  /// @param tensor dense, of the dtype and shape stated, with any strides, on any device
  /// @throws Error for another name, dtype or shape, or a disk that is full
  void write(const std::string& name, const at::Tensor& tensor) {
    using namespace safetensors;
    if (written_ == tensors_.size()) throw Error("name", "no more tensors", excerpt(name));
    const TensorInfo& next = tensors_[written_];
    if (name != next.name) throw Error("name", excerpt(next.name) + " next", excerpt(name));
    check_writable(name, tensor);
    if (tensor.scalar_type() != next.dtype || tensor.sizes() != at::IntArrayRef(next.shape)) {
      throw Error("tensor",
                  excerpt(name) + " as " + c10::toString(next.dtype) + " of " +
                      shown(at::IntArrayRef(next.shape)),
                  c10::toString(tensor.scalar_type()) + (" of " + shown(tensor.sizes())));
    }
    const at::Tensor values = tensor.detach().to(at::kCPU).resolve_neg().contiguous();
    file_.write(values.const_data_ptr(), values.nbytes());
    ++written_;
  }

  /// Flushes the file to the disk and gives it its name.
  /// @throws Error if tensors are missing, or the file cannot be flushed or renamed
  void publish() {
    if (written_ != tensors_.size()) {
      throw Error("tensors", std::to_string(tensors_.size()) + " written",
                  std::to_string(written_));
    }
    file_.publish();
  }

 private:
  static std::string checked_header(const std::vector<TensorInfo>& tensors,
                                    const std::map<std::string, std::string>& metadata) {
    using namespace safetensors;
    std::set<std::string> names;
    for (const TensorInfo& info : tensors) {
      if (info.name == "__metadata__") throw Error("tensors", "names of tensors", info.name);
      if (!names.insert(info.name).second) {
        throw Error("tensors", "every name once", excerpt(info.name) + " twice");
      }
    }
    std::string header = header_text(tensors, metadata);
    if (header.size() > max_header) {
      throw Error("tensors", "names and metadata within " + std::to_string(max_header) + " bytes",
                  std::to_string(header.size()));
    }
    return header;
  }

  std::vector<TensorInfo> tensors_;
  std::string header_;
  PendingFile file_;
  std::size_t written_ = 0;
};

/// Writes a safetensors file.
///
/// The file appears under its name only when it is complete and on the disk: it is written beside
/// it, flushed and renamed. Tensors on other devices are brought over one at a time.
///
/// @param path file to write or replace
/// @param tensors dense tensors of the dtypes that read_safetensors knows, of any shape, strides
///   and device; they are stored contiguously, larger element sizes first, which aligns them all
/// @param metadata texts in UTF-8
/// @throws Error for an undefined tensor, an unknown dtype or layout, a name that is not UTF-8, or
///   a file that cannot be written
/// @par Random numbers
/// none
inline void write_safetensors(const std::filesystem::path& path,
                              const std::map<std::string, at::Tensor>& tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
  std::vector<TensorInfo> infos;
  infos.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    safetensors::check_writable(name, tensor);
    infos.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  }
  const auto size_of = [](const TensorInfo& info) {
    return safetensors::dtype_of(info.name, info.dtype).size;
  };
  std::stable_sort(infos.begin(), infos.end(), [&](const TensorInfo& a, const TensorInfo& b) {
    return size_of(a) > size_of(b);
  });
  SafetensorsWriter writer(path, infos, metadata);
  for (const TensorInfo& info : infos) writer.write(info.name, tensors.at(info.name));
  writer.publish();
}

}  // namespace contraflow
