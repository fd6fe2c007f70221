#pragma once

/// @file
/// Tensors to safetensors files.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/safetensors_header.hpp>

namespace contraflow {

/// What a safetensors file says of a tensor before its data.
struct TensorInfo {
  std::string name;                 ///< in UTF-8, not "__metadata__"
  at::ScalarType dtype;             ///< one that read_safetensors knows
  std::vector<std::int64_t> shape;  ///< possibly of rank 0, or with zeros
};

namespace safetensors {

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

}  // namespace safetensors

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
