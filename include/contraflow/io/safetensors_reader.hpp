#pragma once

/// @file
/// Tensors from safetensors files, mapped.

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <contraflow/core/error.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/io/safetensors_header.hpp>
#include <contraflow/io/settings.hpp>

namespace contraflow {

/// What a safetensors file holds.
struct SafetensorsFile {
  std::map<std::string, at::Tensor> tensors;    ///< by name, on the CPU
  std::map<std::string, std::string> metadata;  ///< texts of the header
};

namespace safetensors {

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

// Where the weights of a folder's network are, in the order of preference.
inline std::vector<std::string> names_of_weights(const std::string& stem,
                                                 const std::string& variant) {
  if (variant.empty()) return {stem + ".safetensors", stem + ".safetensors.index.json"};
  return {stem + "." + variant + ".safetensors", stem + ".safetensors.index." + variant + ".json"};
}

// The variant that a file's name says, such as fp16; nothing for any other file.
inline std::string variant_of(const std::string& name, const std::string& stem) {
  for (const auto& [before, after] :
       {std::pair<std::string, std::string>{stem + ".safetensors.index.", ".json"},
        {stem + ".", ".safetensors"}}) {
    const bool fits = name.size() > before.size() + after.size() && name.starts_with(before) &&
                      name.ends_with(after);
    if (!fits) continue;
    const std::string variant =
        name.substr(before.size(), name.size() - before.size() - after.size());
    // Other characters are those of parts, such as fp16-00001-of-00002.
    const auto plain = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; };
    if (std::all_of(variant.begin(), variant.end(), plain)) return variant;
  }
  return {};
}

// Names of the files in a folder, in order; none where it cannot be read.
inline std::set<std::string> names_in(const std::filesystem::path& folder) {
  std::set<std::string> names;
  std::error_code unreadable;
  for (const auto& entry : std::filesystem::directory_iterator(folder, unreadable)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

// What a folder without weights holds, for an error.
inline std::string instead_of_weights(const std::set<std::string>& names) {
  std::string list, pickle;
  for (const std::string& name : names) {
    list += (list.empty() ? "" : ", ") + name;
    for (const char* suffix : {".bin", ".ckpt", ".pt", ".pth"}) {
      if (name.ends_with(suffix)) pickle = name;
    }
  }
  if (!pickle.empty()) {
    return pickle +
           ", which is a pickle: save_pretrained(..., safe_serialization=True) in Python "
           "writes safetensors";
  }
  return list.empty() ? "no file" : list;
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
///   `<stem>.safetensors.index.fp16.json`; empty: the weights without a variant, else the first
///   variant there is, by name
/// @throws Error naming the folder, what was looked for and what is there, or as the readers do
/// @par Random numbers
/// none
inline SafetensorsFile read_weights(const std::filesystem::path& folder,
                                    const std::string& stem = "model",
                                    const std::string& variant = "") {
  const std::set<std::string> there = safetensors::names_in(folder);
  std::set<std::string> variants{variant};
  for (const std::string& name : there) {
    if (variant.empty()) variants.insert(safetensors::variant_of(name, stem));
  }
  for (const std::string& tried : variants) {
    const auto names = safetensors::names_of_weights(stem, tried);
    if (there.contains(names[0])) return read_safetensors(folder / names[0]);
    if (there.contains(names[1])) return read_safetensors_sharded(folder / names[1]);
  }
  const auto names = safetensors::names_of_weights(stem, variant);
  const std::string wanted = names[0] + " or " + names[1];
  throw Error(
      folder.string(),
      variant.empty() ? wanted + ", or a variant such as " + stem + ".fp16.safetensors" : wanted,
      safetensors::instead_of_weights(there));
}

}  // namespace contraflow
