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

// Most inputs get a length that fits, so that they get past it; the first byte decides.
std::string file_of(const std::uint8_t* data, std::size_t size) {
  if (size == 0 || data[0] % 8 == 0) return {data, data + size};
  const std::string header(data + 1, data + size);
  const std::size_t end = header.rfind('}');
  const std::uint64_t length = end == std::string::npos ? header.size() : end + 1;
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i)
    bytes[static_cast<std::size_t>(i)] = static_cast<char>(length >> 8 * i);
  return bytes + header;
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
