// Any text is Base64 or refused; bytes come back from it, and what is not refused is the one way to
// write its bytes.

#include <cstdint>
#include <string_view>
#include <vector>

#include <contraflow/io/base64.hpp>

#include "fuzz/harness.hpp"

CONTRAFLOW_FUZZ_PROGRAM(base64, input) {
  const std::vector<std::uint8_t> bytes(input.begin(), input.end());
  fuzz::expects_law(contraflow::decode_base64(contraflow::encode_base64(bytes)) == bytes);
  fuzz::expects_law(contraflow::decode_base64(input).size() <= input.size());
}
