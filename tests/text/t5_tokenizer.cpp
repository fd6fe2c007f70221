#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/text/t5_tokenizer.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using laws::check_error;

namespace {

const std::filesystem::path data = std::filesystem::path(CONTRAFLOW_TEST_DATA) / "sd3/tokenizer";

const cf::T5Tokenizer& tiny() {
  static const cf::T5Tokenizer tokenizer(data / "t5_tiny.model");
  return tokenizer;
}

}  // namespace

TEST_CASE("T5 ids are those of SentencePiece, an end and padding") {
  CHECK(tiny().length() == 256);
  CHECK(tiny().pad_id() == 0);
  const auto cases = nlohmann::json::parse(std::ifstream(data / "t5_ids.json")).at("cases");
  REQUIRE(cases.size() >= 30);
  for (const auto& entry : cases) {
    const auto caption = entry.at("text").get<std::string>();
    INFO(caption);
    auto expected = entry.at("ids").get<std::vector<std::int64_t>>();
    const auto count = static_cast<std::int64_t>(expected.size());
    const cf::T5Tokenizer exact(data / "t5_tiny.model", count);
    CHECK(exact.encode(caption).ids == expected);
    CHECK(exact.encode(caption).cut == 0);
    const cf::T5Tokenizer padded(data / "t5_tiny.model", count + 3);
    expected.resize(expected.size() + 3, 0);
    CHECK(padded.encode(caption).ids == expected);
  }
}

TEST_CASE("a long caption is cut before its end") {
  const cf::T5Tokenizer narrow(data / "t5_tiny.model", 4);
  const auto tokens = narrow.encode("a photo of a cat");
  CHECK(tokens.ids == std::vector<std::int64_t>{5, 12, 42, 1});
  CHECK(tokens.cut == 2);
  CHECK(cf::T5Tokenizer(data / "t5_tiny.model", 1).encode("a photo of a cat").ids ==
        std::vector<std::int64_t>{1});
}

TEST_CASE("a batch of T5 is its captions") {
  const cf::TokenBatch batch = tiny().encode(std::vector<std::string>{"a cat", "", "dogs"});
  CHECK(batch.ids.sizes() == at::IntArrayRef({3, 256}));
  CHECK(batch.ids[0].equal(at::tensor(tiny().encode("a cat").ids)));
  CHECK(batch.ids[1].equal(at::tensor(tiny().encode("").ids)));
  CHECK(batch.cut == std::vector<std::int64_t>{0, 0, 0});
}

TEST_CASE("any bytes are a caption") {
  CHECK(tiny().encode("a\xff").ids == tiny().encode("a\uFFFD").ids);
  std::mt19937 generator(4);
  for (int round = 0; round < 2000; ++round) {
    std::string caption(generator() % 60, '\0');
    for (char& byte : caption) byte = static_cast<char>(generator());
    const auto tokens = tiny().encode(caption);
    REQUIRE(tokens.ids.size() == 256);
    for (const auto id : tokens.ids) REQUIRE((id >= 0 && id < tiny().vocabulary_size()));
  }
  check_error([] { tiny().encode(std::string((1 << 20) + 1, 'a')); }, "caption", "bytes");
}

TEST_CASE("a written model segments as its scores say") {
  const TemporaryDirectory directory;
  const auto path = directory / "spiece.model";
  cf::write_unigram_model(path, {{"\u2581", -2.0F},
                                 {"\u2581cat", -3.0F},
                                 {"c", -4.0F},
                                 {"a", -4.0F},
                                 {"t", -4.0F},
                                 {"ca", -4.5F}});
  // A folder stands for the model in it.
  const cf::T5Tokenizer tokenizer(directory.path(), 8);
  CHECK(tokenizer.vocabulary_size() == 9);
  CHECK(tokenizer.encode("cat").ids == std::vector<std::int64_t>{4, 1, 0, 0, 0, 0, 0, 0});
  CHECK(tokenizer.encode("cat act").ids == std::vector<std::int64_t>{4, 3, 6, 5, 7, 1, 0, 0});
  CHECK(tokenizer.encode("ca").ids == std::vector<std::int64_t>{3, 8, 1, 0, 0, 0, 0, 0});
  CHECK(tokenizer.encode("z").ids == std::vector<std::int64_t>{3, 2, 1, 0, 0, 0, 0, 0});
}

TEST_CASE("what is no model is refused") {
  const TemporaryDirectory directory;
  const auto path = directory / "spiece.model";
  const auto read = [&] { cf::T5Tokenizer{directory.path()}; };
  check_error(read, path.string(), "No such file");
  write_all(path, "");
  check_error(read, path.string(), "a SentencePiece model");
  write_all(path, "not a model");
  check_error(read, path.string(), "a SentencePiece model");
  check_error([] { cf::T5Tokenizer(data / "t5_tiny.model", 0); }, "length", "at least 1");
}
