// SentencePiece trusts the map of characters in a model: one that leads out of itself is refused.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/text/unigram_check.hpp>
#include <contraflow/text/unigram_files.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using laws::check_error;

namespace {

constexpr std::uint32_t nothing = 1U << 31, has_key = 1U << 8;

// A double array of blocks of 256 nodes in which no byte leads anywhere.
std::vector<std::uint32_t> blocks(std::size_t count) {
  std::vector<std::uint32_t> units(256 * count, nothing);
  units[0] = 0;
  return units;
}

// The node that a byte leads to from another whose children are in a block.
std::uint32_t lead(std::vector<std::uint32_t>& units, std::uint32_t node, std::uint32_t block,
                   std::uint32_t byte) {
  units[node] |= (node ^ 256 * block) << 10;
  units[256 * block ^ byte] = byte;
  return 256 * block ^ byte;
}

// "x" becomes "y".
std::vector<std::uint32_t> x() {
  std::vector<std::uint32_t> units = blocks(3);
  const std::uint32_t node = lead(units, 0, 1, 'x');
  units[node] |= (node ^ 512U) << 10 | has_key;
  units[512] = nothing | 0;
  return units;
}

std::string map_of(const std::vector<std::uint32_t>& units, const std::string& texts = {"y\0", 2}) {
  const auto size = std::uint32_t(units.size() * 4);
  std::string map(4 + size, '\0');
  std::memcpy(map.data(), &size, 4);
  std::memcpy(map.data() + 4, units.data(), size);
  return map + texts;
}

void is_refused(const std::string& map) {
  check_error([&] { cf::unigram::expects_sound_characters(map, "model"); }, "model",
              "a map of characters that is whole");
}

}  // namespace

TEST_CASE("maps of characters that are whole are taken") {
  CHECK_NOTHROW(cf::unigram::expects_sound_characters("", "model"));
  CHECK_NOTHROW(cf::unigram::expects_sound_characters(map_of(x()), "model"));
  const std::string path = std::string(CONTRAFLOW_TEST_DATA) + "/sd3/tokenizer/t5_tiny.model";
  CHECK_NOTHROW(cf::unigram::expects_sound_model(read_all(path), path));
}

TEST_CASE("a map of characters that leads out of itself is refused") {
  is_refused(map_of(x()).substr(0, 3));
  is_refused(map_of(x()).substr(0, 100));
  is_refused(map_of(x(), "y"));  // without an end
  is_refused(map_of(x(), ""));   // without texts
  is_refused(map_of({0, 0}));    // smaller than a block
  std::vector<std::uint32_t> units = x();
  units[512] = nothing | 2;
  is_refused(map_of(units));  // a text behind the last
  units = x();
  units[256 ^ 'x'] |= 1U << 30;
  is_refused(map_of(units));  // a node behind the last
  units = x();
  const std::uint32_t z = lead(units, 256 ^ 'x', 2, 'z');
  CHECK_NOTHROW(cf::unigram::expects_sound_characters(map_of(units), "model"));
  units[z] |= (z ^ 256U) << 10;
  is_refused(map_of(units));  // from "xz" to "x"
}

TEST_CASE("a map with more keys in each other than there is room for is refused") {
  const auto nested = [](std::uint32_t keys) {
    std::vector<std::uint32_t> units = blocks(keys + 2);
    std::uint32_t node = 0;
    for (std::uint32_t i = 0; i < keys; ++i) {
      node = lead(units, node, i + 1, 'x');
      units[node] |= has_key;
      units[256 * (i + 2)] = nothing | 0;
    }
    units[node] |= (node ^ 256 * (keys + 1)) << 10;
    return map_of(units);
  };
  CHECK_NOTHROW(cf::unigram::expects_sound_characters(nested(32), "model"));
  is_refused(nested(33));
}

TEST_CASE("a model whose map is broken is refused, whichever it is") {
  for (const unsigned field : {3U, 5U}) {
    std::string part, model;
    cf::unigram::append_bytes(part, 2, map_of({0, 0}));
    cf::unigram::append_bytes(model, field, part);
    check_error([&] { cf::unigram::expects_sound_model(model, "model"); }, "model",
                "a map of characters");
  }
  for (const std::string model : {"\x0b",
                                  "\x0a\x05"
                                  "abc",
                                  "\xff\xff",
                                  "\x09"
                                  "1234567"}) {
    check_error([&] { cf::unigram::expects_sound_model(model, "model"); }, "model",
                "a SentencePiece model");
  }
}
