// A safetensors file of any bytes is read or refused, and what is read can be used.

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include <ATen/ATen.h>

#include <contraflow/io/safetensors.hpp>

#include "fuzz/harness.hpp"

namespace {

// A third are any bytes, a third any bytes behind a length that fits, and a third are changes of a
// valid file: pairs of place and byte. The first byte decides.
std::string file_of(std::string_view input) {
  const std::string rest(input.substr(std::min<std::size_t>(1, input.size())));
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(rest[i]); };
  if (input.empty() || input[0] % 3 == 0) return std::string(input);
  if (input[0] % 3 == 1) {
    const std::size_t end = rest.rfind('}');
    return fuzz::with_length(rest, end == std::string::npos ? rest.size() : end + 1);
  }
  const std::string header =
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BOOL","shape":[],"data_offsets":[24,25]},)"
      R"("c":{"dtype":"I64","shape":[0,4],"data_offsets":[25,25]}})";
  std::string bytes = fuzz::with_length(header + std::string(25, '\1'), header.size());
  for (std::size_t i = 0; i + 1 < rest.size(); i += 2) bytes[byte(i) % bytes.size()] = rest[i + 1];
  return bytes;
}

}  // namespace

CONTRAFLOW_FUZZ_PROGRAM(safetensors, input) {
  static const fuzz::Folder folder;
  const auto path = folder.write("fuzz.safetensors", file_of(input));
  for (const auto& [name, tensor] : contraflow::read_safetensors(path).tensors) {
    // An empty tensor may have a dimension that its sum would need memory for.
    if (tensor.numel() > 0) static_cast<void>(tensor.to(at::kFloat).sum().item<float>());
  }
}
