// Runs the fuzzing program that the environment variable CONTRAFLOW_FUZZ_PROGRAM names.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>

#include "fuzz/harness.hpp"

namespace {

fuzz::Body wanted() {
  const char* name = std::getenv("CONTRAFLOW_FUZZ_PROGRAM");
  const auto found = fuzz::bodies().find(name == nullptr ? "" : name);
  if (found != fuzz::bodies().end()) return found->second;
  std::cerr << "CONTRAFLOW_FUZZ_PROGRAM has to be one of:";
  for (const auto& [known, body] : fuzz::bodies()) std::cerr << ' ' << known;
  std::cerr << '\n';
  std::exit(2);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::Body body = wanted();
  return fuzz::run(body, data, size);
}
