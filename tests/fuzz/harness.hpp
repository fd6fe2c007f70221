#pragma once

// What the fuzzing programs share. Each is a body that is given bytes; it may throw
// contraflow::Error, and nothing else. All are compiled together, with libfuzzer.cpp, which runs
// one of them, or with replay.cpp, which gives each the files of its corpus.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <ATen/Parallel.h>
#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <contraflow/core/error.hpp>
#include <contraflow/io/safetensors_header.hpp>

#include "observe/temporary_directory.hpp"

namespace fuzz {

using Body = void (*)(std::string_view input);

// What may be refused, where a body does more than one thing with its input.
template <class Read>
void read_or_refuse(Read&& read) {
  try {
    read();
  } catch (const contraflow::Error&) {
  }
}

inline int run(Body body, const std::uint8_t* data, std::size_t size) {
  [[maybe_unused]] static const bool is_alone = (at::set_num_threads(1), true);
  read_or_refuse([&] { body({reinterpret_cast<const char*>(data), size}); });
  return 0;
}

// The bodies of all programs that are compiled in, by name.
inline std::map<std::string, Body>& bodies() {
  static std::map<std::string, Body> all;
  return all;
}
struct Registered {
  Registered(const char* name, Body body) { bodies().emplace(name, body); }
};

// A law that does not hold is a finding, as much as a crash.
inline void expects_law(bool holds) {
  if (!holds) std::abort();
}

// The parts of an input, which are divided by the first bytes 0x1F; the last is all of the rest.
template <std::size_t count>
std::array<std::string, count> parts(std::string_view input) {
  std::array<std::string, count> result;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t end = i + 1 < count ? input.find('\x1f') : std::string_view::npos;
    result[i] = input.substr(0, end);
    input.remove_prefix(end == std::string_view::npos ? input.size() : end + 1);
  }
  return result;
}

// A folder in memory, where the system has one: readers take paths.
class Folder {
 public:
  const std::filesystem::path& path() const { return directory_.path(); }

  // Writes a file, or removes it where there is nothing to write.
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    std::filesystem::path file = directory_ / name;
    if (bytes.empty()) {
      ::unlink(file.c_str());
      return file;
    }
    const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const bool is_written =
        descriptor >= 0 && ::write(descriptor, bytes.data(), bytes.size()) == ssize_t(bytes.size());
    if (descriptor >= 0) ::close(descriptor);
    if (!is_written) std::abort();
    return file;
  }

 private:
  static std::filesystem::path above() {
    std::error_code unreadable;
    const bool has_memory = std::filesystem::is_directory("/dev/shm", unreadable);
    return has_memory ? "/dev/shm" : std::filesystem::temp_directory_path();
  }

  TemporaryDirectory directory_{above()};
};

// A length of eight bytes, and what follows it.
inline std::string with_length(const std::string& rest, std::uint64_t length) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[std::size_t(i)] = static_cast<char>(length >> 8 * i);
  return bytes + rest;
}

// A safetensors file that a text describes, a line each: "<name> <dtype> <size>...", or
// "@<key> <text>" for metadata. All bytes of its data are 1. One of more than some KB is cut off.
inline std::string safetensors_of(const std::string& text) {
  nlohmann::json header = nlohmann::json::object();
  std::uint64_t end = 0;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name, dtype;
    if (line.starts_with('@')) {
      const std::size_t space = std::min(line.find(' '), line.size());
      header["__metadata__"][line.substr(1, space - 1)] =
          line.substr(std::min(space + 1, line.size()));
      continue;
    }
    words >> name >> dtype;
    std::vector<std::uint64_t> shape;
    for (std::uint64_t size = 0; words >> size;) shape.push_back(size);
    std::uint64_t bytes = 1;
    for (const auto& known : contraflow::safetensors::dtypes) {
      if (known.name == dtype) bytes = known.size;
    }
    for (const std::uint64_t size : shape) bytes *= size;
    header[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {end, end + bytes}}};
    end += bytes;
  }
  const std::string json = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  constexpr std::uint64_t most = 1 << 14;
  return with_length(json + std::string(std::min(end, most), '\1'), json.size());
}

}  // namespace fuzz

// Begins the body of the program <name>.
#define CONTRAFLOW_FUZZ_PROGRAM(name, input)                            \
  static void fuzz_##name(std::string_view input);                      \
  static const fuzz::Registered registered_##name(#name, &fuzz_##name); \
  static void fuzz_##name(std::string_view input)
