// Every input in the corpora of the fuzzing programs is read or refused: each of the inputs that
// once were findings, and what else a program begins with.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <catch2/catch_test_macros.hpp>

#include "fuzz/harness.hpp"

TEST_CASE("every input of the corpora is read or refused") {
  const std::filesystem::path corpora = CONTRAFLOW_FUZZ_CORPORA;
  REQUIRE(!fuzz::bodies().empty());
  for (const auto& [name, body] : fuzz::bodies()) {
    INFO("program " << name);
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(corpora / name)) {
      INFO("input " << entry.path().filename().string());
      std::ifstream file(entry.path(), std::ios::binary);
      const std::string bytes{std::istreambuf_iterator<char>(file),
                              std::istreambuf_iterator<char>()};
      const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
      CHECK(fuzz::run(body, data, bytes.size()) == 0);
      ++count;
    }
    CHECK(count >= 2);
  }
}
