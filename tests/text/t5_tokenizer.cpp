#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/io/base64.hpp>
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

// Braces around one value are no list with every compiler.
nlohmann::json array(std::initializer_list<nlohmann::json> entries) {
  return nlohmann::json::array_t(entries);
}

// What a model of SentencePiece holds, field by field.
struct Fields {
  const std::string& bytes;
  std::size_t next = 0;

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes.at(next++));
      value |= std::uint64_t(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  }
  // Calls f(number, bytes of the field); numbers come as no bytes.
  template <class F>
  void each(F&& f) {
    while (next < bytes.size()) {
      const std::uint64_t tag = varint();
      if (tag % 8 == 0) varint();
      const std::uint64_t size = tag % 8 == 0 ? 0 : tag % 8 == 5 ? 4 : varint();
      f(tag / 8, bytes.substr(next, size));
      next += size;
    }
  }
};

// The published model as transformers has it in JSON, with the parts that its releases differ in.
nlohmann::json single_file(const nlohmann::json& normalizers, const nlohmann::json& pre_tokenizer) {
  nlohmann::json pieces = nlohmann::json::array();
  std::string characters;
  const std::string bytes = read_all(data / "t5_tiny.model");
  Fields{bytes}.each([&](std::uint64_t field, const std::string& value) {
    std::string text;
    float score = 0;
    Fields{value}.each([&](std::uint64_t inner, const std::string& part) {
      if (field == 1 && inner == 1) text = part;
      if (field == 1 && inner == 2) std::memcpy(&score, part.data(), sizeof score);
      if (field == 3 && inner == 2) characters = part;
    });
    if (field == 1) pieces.push_back({text, score});
  });
  const nlohmann::json precompiled{
      {"type", "Precompiled"},
      {"precompiled_charsmap",
       cf::encode_base64(std::vector<std::uint8_t>(characters.begin(), characters.end()))}};
  nlohmann::json normalizer = precompiled;
  if (!normalizers.empty()) {
    normalizer = {{"type", "Sequence"}, {"normalizers", normalizers}};
    normalizer["normalizers"].insert(normalizer["normalizers"].begin(), precompiled);
  }
  pieces.push_back({"<extra_id_0>", 0.0});
  return {
      {"version", "1.0"},
      {"normalizer", normalizer},
      {"pre_tokenizer", pre_tokenizer},
      {"added_tokens",
       {{{"id", 0}, {"content", "<pad>"}},
        {{"id", 1}, {"content", "</s>"}},
        {{"id", 2}, {"content", "<unk>"}},
        {{"id", pieces.size() - 1}, {"content", "<extra_id_0>"}}}},
      {"model", {{"type", "Unigram"}, {"unk_id", 2}, {"byte_fallback", false}, {"vocab", pieces}}}};
}

const nlohmann::json strip{{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}};
nlohmann::json joined(const char* by) {
  return {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", by}};
}
nlohmann::json metaspace(const char* key, const nlohmann::json& value) {
  return {{"type", "Metaspace"}, {"replacement", "\u2581"}, {key, value}};
}
nlohmann::json words_of(const nlohmann::json& metaspace) {
  return {{"type", "Sequence"}, {"pretokenizers", {{{"type", "WhitespaceSplit"}}, metaspace}}};
}

}  // namespace

TEST_CASE("tokenizer.json of every release of transformers gives the ids of SentencePiece") {
  const nlohmann::json none = nlohmann::json::array();
  const auto always = metaspace("prepend_scheme", "always");
  const std::vector<nlohmann::json> releases{
      single_file(array({strip, joined("\u2581")}), always),  // 4
      single_file(array({strip, joined("\u2581")}),
                  metaspace("prepend_scheme", "first")),                       // 4, not legacy
      single_file(array({joined(" ")}), metaspace("add_prefix_space", true)),  // 4.0
      single_file(none, words_of(metaspace("add_prefix_space", true))),        // T5's own
      single_file(none, words_of(always)),                                     // 5
  };
  const TemporaryDirectory directory;
  const auto path = directory / "tokenizer.json";
  const auto cases = nlohmann::json::parse(std::ifstream(data / "t5_ids.json")).at("cases");
  for (const nlohmann::json& release : releases) {
    write_all(path, release.dump());
    const cf::T5Tokenizer in_folder(directory.path(), 1024), alone(path, 1024);
    CHECK(in_folder.vocabulary_size() == tiny().vocabulary_size() + 1);
    for (const auto& entry : cases) {
      const auto caption = entry.at("text").get<std::string>();
      INFO(release.at("pre_tokenizer").dump() << " " << caption);
      auto expected = entry.at("ids").get<std::vector<std::int64_t>>();
      expected.resize(1024, 0);
      CHECK(in_folder.encode(caption).ids == expected);
      CHECK(alone.encode(caption).ids == expected);
    }
    // Tokens of its own are ordinary text in a caption.
    CHECK(cf::T5Tokenizer(path).encode("<extra_id_0>").ids == tiny().encode("<extra_id_0>").ids);
  }
}

TEST_CASE("a tokenizer.json of another meaning is refused with what is in it") {
  const TemporaryDirectory directory;
  const auto path = (directory / "tokenizer.json").string();
  const nlohmann::json none = nlohmann::json::array();
  const auto always = metaspace("prepend_scheme", "always");
  const auto refuses = [&](nlohmann::json file, const nlohmann::json& patch,
                           const std::string& section, const std::string& part) {
    if (!patch.is_null()) file.merge_patch(patch);
    write_all(path, file.dump());
    check_error([&] { cf::T5Tokenizer{directory.path()}; }, path + ": " + section, part);
  };
  const auto good = single_file(none, always);
  refuses(good, {{"model", {{"type", "BPE"}}}}, R"("model": "type")", "expected Unigram, got BPE");
  refuses(good, {{"model", {{"byte_fallback", true}}}}, R"("model")", "byte_fallback false");
  refuses(single_file(array({{{"type", "Lowercase"}}}), always), {}, R"("normalizer")",
          "got Lowercase");
  refuses(
      single_file(array({{{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "b"}}}),
                  always),
      {}, R"("normalizer")", "got Replace");
  refuses(good, {{"pre_tokenizer", {{"type", "ByteLevel"}}}}, R"("pre_tokenizer")",
          "got ByteLevel");
  refuses(single_file(none, metaspace("prepend_scheme", "never")), {}, R"("pre_tokenizer")",
          "got never");
  refuses(single_file(none, metaspace("add_prefix_space", false)), {}, R"("pre_tokenizer")",
          "got never");
  refuses(single_file(none, words_of(metaspace("prepend_scheme", "first"))), {},
          R"("pre_tokenizer")", "got first");
  refuses(good, {{"pre_tokenizer", {{"replacement", "_"}}}}, R"("pre_tokenizer": "replacement")",
          "got _");
}

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
