// A safetensors file of any bytes is read or refused, and what is read can be used.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <ATen/ATen.h>
#include <sys/mman.h>
#include <unistd.h>

#include <contraflow/io/safetensors.hpp>

namespace {

// A file in memory: the reader takes a path.
class FileInMemory {
 public:
  FileInMemory() : descriptor_(memfd_create("fuzz", MFD_CLOEXEC)) {
    if (descriptor_ < 0) std::abort();
  }
  void fill(const std::string& bytes) const {
    if (ftruncate(descriptor_, 0) != 0 ||
        pwrite(descriptor_, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
      std::abort();
    }
  }
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

std::string with_length(const std::string& rest, std::uint64_t length) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) {
    bytes[static_cast<std::size_t>(i)] = static_cast<char>(length >> 8 * i);
  }
  return bytes + rest;
}

// A third are any bytes, a third any bytes behind a length that fits, and a third are changes of a
// valid file: pairs of place and byte. The first byte decides.
std::string file_of(const std::uint8_t* data, std::size_t size) {
  if (size == 0 || data[0] % 3 == 0) return {data, data + size};
  if (data[0] % 3 == 1) {
    const std::string header(data + 1, data + size);
    const std::size_t end = header.rfind('}');
    return with_length(header, end == std::string::npos ? header.size() : end + 1);
  }
  const std::string header =
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BOOL","shape":[],"data_offsets":[24,25]},)"
      R"("c":{"dtype":"I64","shape":[0,4],"data_offsets":[25,25]}})";
  std::string bytes = with_length(header + std::string(25, '\1'), header.size());
  for (std::size_t i = 1; i + 1 < size; i += 2) {
    bytes[data[i] % bytes.size()] = static_cast<char>(data[i + 1]);
  }
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const FileInMemory file;
  file.fill(file_of(data, size));
  try {
    for (const auto& [name, tensor] : contraflow::read_safetensors(file.path()).tensors) {
      // An empty tensor may have a dimension that its sum would need memory for.
      if (tensor.numel() > 0) static_cast<void>(tensor.to(at::kFloat).sum().item<float>());
    }
  } catch (const contraflow::Error&) {
  }
  return 0;
}
