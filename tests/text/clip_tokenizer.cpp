#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/text/clip_tokenizer.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using laws::check_error;

namespace {

const std::filesystem::path data = std::filesystem::path(CONTRAFLOW_TEST_DATA) / "sd3/tokenizer";

const std::vector<std::string>& published_merges() {
  static const auto merges = cf::clip_bpe::read_merges(data / "merges.txt");
  return merges;
}

const cf::ClipTokenizer& published() {
  static const auto tokenizer = cf::ClipTokenizer::from_merges(published_merges());
  return tokenizer;
}

// The caption's own tokens: without begin, and what follows the first end of text.
std::vector<std::int64_t> tokens_of(const cf::ClipTokenizer& tokenizer, const std::string& caption,
                                    std::size_t count) {
  const auto ids = tokenizer.encode(caption).ids;
  return {ids.begin() + 1, ids.begin() + 1 + static_cast<std::ptrdiff_t>(count)};
}

constexpr std::int64_t begin_id = 49406, end_id = 49407;

}  // namespace

TEST_CASE("ids are those of transformers' tokenizer") {
  REQUIRE(published_merges().size() == 48894);
  CHECK(published().vocabulary_size() == 49408);
  const auto cases = nlohmann::json::parse(std::ifstream(data / "clip_ids.json")).at("cases");
  REQUIRE(cases.size() >= 30);
  for (const auto& entry : cases) {
    const auto caption = entry.at("text").get<std::string>();
    INFO(caption);
    CHECK(published().encode(caption).ids == entry.at("ids").get<std::vector<std::int64_t>>());
  }
}

TEST_CASE("a written-out special token is that token") {
  const std::vector<std::int64_t> ids{320, end_id, 321};
  CHECK(tokens_of(published(), "a <|endoftext|>b", 3) == ids);
  // Split as punctuation and letters when it is only like one.
  CHECK(tokens_of(published(), "b <|EndOfText|>x", 7) ==
        std::vector<std::int64_t>{321, 27, 347, 40786, 4160, 91, 285});
}

TEST_CASE("the second tokenizer pads with an exclamation mark, and reads it so") {
  const auto second = cf::ClipTokenizer::from_merges(published_merges(), {.pad = "!"});
  CHECK(second.pad_id() == 0);
  const auto ids = second.encode("wow!!! a!b").ids;
  CHECK(std::vector<std::int64_t>(ids.begin(), ids.begin() + 10) ==
        std::vector<std::int64_t>{begin_id, 2781, 0, 0, 0, 320, 0, 321, end_id, 0});
  CHECK(ids.back() == 0);
  CHECK(tokens_of(published(), "wow!!! a!b", 6) ==
        std::vector<std::int64_t>{2781, 995, 320, 256, 321, end_id});
}

TEST_CASE("characters are lowered one by one") {
  CHECK(tokens_of(published(), "İstanbul ΣΑΣ", 9) ==
        std::vector<std::int64_t>{328, 16384, 11231, 139, 225, 138, 109, 139, 481});
}

TEST_CASE("a caption that does not fit is cut, and says by how much") {
  std::string caption;
  for (int i = 0; i < 75; ++i) caption += "word ";
  auto tokens = published().encode(caption);
  CHECK(tokens.cut == 0);
  CHECK(tokens.ids.size() == 77);
  CHECK(tokens.ids.back() == end_id);
  tokens = published().encode(caption + "a cat");
  CHECK(tokens.cut == 2);
  CHECK(tokens.ids.size() == 77);
  CHECK(tokens.ids == published().encode(caption).ids);

  const auto narrow = cf::ClipTokenizer::from_merges({}, {.length = 3});
  CHECK(narrow.encode("ab").cut == 1);
  CHECK(narrow.encode("ab").ids.size() == 3);
}

TEST_CASE("a batch is its captions") {
  const std::vector<std::string> captions{"a cat", "", std::string(2000, '1')};
  const cf::TokenBatch batch = published().encode(captions);
  CHECK(batch.ids.sizes() == at::IntArrayRef({3, 77}));
  CHECK(batch.ids.scalar_type() == at::kLong);
  for (std::size_t i = 0; i < captions.size(); ++i) {
    const auto one = published().encode(captions[i]);
    CHECK(batch.ids[static_cast<std::int64_t>(i)].equal(at::tensor(one.ids)));
    CHECK(batch.cut[i] == one.cut);
  }
  CHECK(batch.cut[2] == 2000 - 75);
  CHECK(published().encode(std::vector<std::string>{}).ids.sizes() == at::IntArrayRef({0, 77}));
}

TEST_CASE("bytes that are not UTF-8 count as the replacement character") {
  const auto same = [](const std::string& a, const std::string& b) {
    return published().encode(a).ids == published().encode(b).ids;
  };
  CHECK(same("a\xff", "a\uFFFD"));
  CHECK(same("\xe6\x97", "\uFFFD"));
  CHECK(same("\xed\xa0\x80x", "\uFFFD\uFFFD\uFFFDx"));
  CHECK_FALSE(same("a\xff", "a"));
  std::mt19937 generator(2);
  for (int round = 0; round < 2000; ++round) {
    std::string caption(generator() % 60, '\0');
    for (char& byte : caption) byte = static_cast<char>(generator());
    const auto tokens = published().encode(caption);
    REQUIRE(tokens.ids.size() == 77);
    for (const auto id : tokens.ids) REQUIRE((id >= 0 && id < 49408));
  }
}

TEST_CASE("long words and captions take no quadratic time") {
  const std::string word(1 << 19, 'a'), marks(1 << 19, '!');
  CHECK(published().encode(word).cut > 1000);
  const auto second = cf::ClipTokenizer::from_merges(published_merges(), {.pad = "!"});
  CHECK(second.encode(marks).cut == (1 << 19) - 75);
  check_error([] { published().encode(std::string((1 << 20) + 1, 'a')); }, "caption", "bytes");
}

TEST_CASE("merges are applied in their order, and pairs of one rank from the left") {
  const auto tokenizer = cf::ClipTokenizer::from_merges({"b c", "a b", "a a", "aa a</w>"});
  const auto id = [](int rank) { return std::int64_t{512 + rank}; };
  const auto ids = [&](const std::string& caption, std::size_t count) {
    return tokens_of(tokenizer, caption, count);
  };
  const std::int64_t a = 'a' - '!', b_end = 256 + 'b' - '!', c_end = 256 + 'c' - '!';
  CHECK(ids("abcd", 3) == std::vector<std::int64_t>{a, id(0), 256 + 'd' - '!'});
  CHECK(ids("abc", 2) == std::vector<std::int64_t>{id(1), c_end});
  CHECK(ids("ab", 2) == std::vector<std::int64_t>{a, b_end});
  CHECK(ids("aaa", 1) == std::vector<std::int64_t>{id(3)});
  CHECK(ids("aaaa", 3) == std::vector<std::int64_t>{id(2), a, 256 + a});
}

TEST_CASE("a written folder reads as it was made") {
  const TemporaryDirectory directory;
  const std::vector<std::string> merges{"c a", "ca t</w>", "d o"};
  cf::write_clip_tokenizer(directory.path(), merges, {.pad = "!", .length = 20});
  const cf::ClipTokenizer read(directory.path());
  const auto made = cf::ClipTokenizer::from_merges(merges, {.pad = "!", .length = 20});
  CHECK(read.length() == 20);
  CHECK(read.pad_id() == 0);
  CHECK(read.vocabulary_size() == 512 + 3 + 2);
  for (const std::string caption : {"a cat", "dog! cat 日本", "", "<|endoftext|>"}) {
    CHECK(read.encode(caption).ids == made.encode(caption).ids);
  }
}

TEST_CASE("special tokens are taken from the files that are there") {
  const TemporaryDirectory directory;
  cf::write_clip_tokenizer(directory.path(), {});
  const auto config = directory / "tokenizer_config.json";
  const auto map = directory / "special_tokens_map.json";
  const auto pad = [&] { return cf::ClipTokenizer(directory.path()).pad_id(); };
  const std::int64_t begin = 512, end = 513;
  CHECK(pad() == end);
  std::filesystem::remove(config);
  std::filesystem::remove(map);
  CHECK(pad() == end);
  CHECK(cf::ClipTokenizer(directory.path()).length() == 77);
  write_all(map, R"({"pad_token": "!"})");
  CHECK(pad() == 0);
  write_all(config, R"({"pad_token": {"content": "\""}, "model_max_length": 1e30})");
  CHECK(pad() == 0);
  CHECK(cf::ClipTokenizer(directory.path()).length() == 77);
  // With a list of added tokens the configuration goes first, and all of the list are special.
  write_all(config, R"({"pad_token": {"content": "\""}, "model_max_length": 9,
      "added_tokens_decoder": {"2": {"content": "#", "normalized": false},
                               "512": {"content": "<|startoftext|>", "normalized": true}}})");
  CHECK(pad() == 1);
  const auto ids = cf::ClipTokenizer(directory.path()).encode("#\"<|STARTOFTEXT|>").ids;
  CHECK(ids == std::vector<std::int64_t>{begin, 2, 1, begin, end, 1, 1, 1, 1});
}

TEST_CASE("a token that is added beyond the vocabulary counts as one of it") {
  const TemporaryDirectory directory;
  cf::write_clip_tokenizer(directory.path(), {}, {.length = 4});
  write_all(directory / "tokenizer_config.json",
            R"({"model_max_length": 4, "added_tokens_decoder": {"600": {"content": "<new>"}}})");
  const cf::ClipTokenizer tokenizer(directory.path());
  CHECK(tokenizer.encode("<new>").ids[1] == 600);
  CHECK(tokenizer.vocabulary_size() == 601);
}

TEST_CASE("a folder that does not fit together is refused") {
  const TemporaryDirectory directory;
  const auto vocabulary = directory / "vocab.json";
  const auto merges = directory / "merges.txt";
  const auto read = [&] { cf::ClipTokenizer{directory.path()}; };
  check_error(read, vocabulary.string(), "No such file");
  cf::write_clip_tokenizer(directory.path(), {"a b"});
  write_all(merges, "#version: 0.2\r\na b\r\n\r\n");
  CHECK_NOTHROW(read());
  for (const std::string line : {"ab", "a  b", " a", "a ", "a b c"}) {
    write_all(merges, line + "\n");
    check_error(read, merges.string(), "two tokens with a space between them");
  }
  write_all(merges, "a c\n");
  check_error(read, merges.string(), "merges of tokens of the vocabulary, got another at number 1");
  write_all(merges, "");
  CHECK_NOTHROW(read());
  write_all(vocabulary, "{\"<|startoftext|>\": 1}");
  check_error(read, vocabulary.string(), "<|endoftext|>");
  write_all(vocabulary, "{\"<|startoftext|>\": -1}");
  check_error(read, vocabulary.string() + ": \"<|startoftext|>\"", "an integer from 0");
  write_all(vocabulary, "{\"<|startoftext|>\": 1, \"<|endoftext|>\": 2}");
  CHECK(cf::ClipTokenizer(directory.path()).encode("ab").ids[1] == 2);
  const auto config = directory / "tokenizer_config.json";
  write_all(config, R"({"added_tokens_decoder": {"x": {"content": "!"}}})");
  check_error(read, config.string() + ": \"added_tokens_decoder\"", "ids of tokens");
  write_all(config, R"({"model_max_length": 2})");
  check_error(read, "length", "at least 3");
  check_error([] { cf::ClipTokenizer::from_merges({}, {.pad = "[PAD]"}); }, "vocabulary", "[PAD]");
  check_error([] { cf::ClipTokenizer::from_merges({"a b", "a b"}); }, "merges", "no token twice");
}

TEST_CASE("one tokenizer serves several threads") {
  const auto expected = published().encode("a photo of a cat").ids;
  std::vector<int> equal(4, 0);
  std::vector<std::thread> threads;
  for (int& count : equal) {
    threads.emplace_back([&count, &expected] {
      for (int i = 0; i < 200; ++i) count += published().encode("a photo of a cat").ids == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(equal == std::vector<int>(4, 200));
}
