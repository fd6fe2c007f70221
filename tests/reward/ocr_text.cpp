// Texts that images are to show, without anyone who reads.

#include <cstdint>
#include <string>
#include <vector>

#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/ocr_text.hpp>

#include "laws/errors.hpp"

namespace cf = contraflow;
using Catch::Approx;
using cf::edit_distance;
using cf::text_match;
using laws::check_error;
using nlohmann::json;

namespace {

// Texts of up to two letters of an alphabet of two, and some others.
std::vector<std::u32string> short_texts() {
  std::vector<std::u32string> texts{U"", U"abba", U"kitten", U"sitting"};
  const std::u32string letters = U"ab";
  for (const char32_t first : letters) {
    texts.push_back({first});
    for (const char32_t second : letters) texts.push_back({first, second});
  }
  return texts;
}

}  // namespace

TEST_CASE("the edit distance has its published values") {
  CHECK(edit_distance(U"kitten", U"sitting") == 3);
  CHECK(edit_distance(U"saturday", U"sunday") == 3);
  CHECK(edit_distance(U"intention", U"execution") == 5);
  CHECK(edit_distance(U"", U"") == 0);
  CHECK(edit_distance(U"", U"four") == 4);
  CHECK(edit_distance(U"four", U"") == 4);
  CHECK(edit_distance(U"ab", U"ba") == 2);
}

TEST_CASE("the edit distance is a metric between the bounds of lengths") {
  const auto texts = short_texts();
  for (const auto& a : texts) {
    for (const auto& b : texts) {
      const std::int64_t distance = edit_distance(a, b);
      const auto m = std::int64_t(a.size()), n = std::int64_t(b.size());
      CHECK(distance == edit_distance(b, a));
      CHECK((distance == 0) == (a == b));
      CHECK(distance >= std::abs(m - n));
      CHECK(distance <= std::max(m, n));
      CHECK(edit_distance(a + U"xyz", b + U"xyz") == distance);
      for (const auto& c : texts) CHECK(edit_distance(a, c) <= distance + edit_distance(b, c));
    }
  }
}

TEST_CASE("a normalised text has lower case and no white space of any kind") {
  CHECK(cf::normalised_text("Hello\nBig \t World\r\n") == U"hellobigworld");
  CHECK(cf::normalised_text("") == U"");
  CHECK(cf::normalised_text(" \n\u00A0\u3000") == U"");
  CHECK(cf::normalised_text("CAFÉ Übung МОСКВА ΣΑΣ") == U"caféübungмоскваσασ");
  CHECK(cf::normalised_text("東京 🐈") == U"東京🐈");
  CHECK(cf::normalised_text("a\xFFz") == U"a\uFFFDz");
}

TEST_CASE("what is read is scored as published") {
  CHECK(text_match("cat", "cats") == Approx(0.75));
  CHECK(text_match("kitten", "sitting") == Approx(1 - 3.0 / 7));
  CHECK(text_match("", "cats") == 0);
  CHECK(text_match("Hello\nWorld", "hello world") == 1);
  INFO("what is read beside it costs nothing");
  CHECK(text_match("two CATS here", "cats") == 1);
  INFO("no more is lost than there is");
  CHECK(text_match("nothing like it at all", "cat s") == 0);
  INFO("code points count, not bytes: one of four");
  CHECK(text_match("cafe", "café") == Approx(0.75));
  CHECK(text_match("東京", "東都") == Approx(0.5));
  CHECK(text_match("🐕", "🐈🐕") == Approx(0.5));
}

TEST_CASE("there is no score for a blank text") {
  check_error([] { text_match("cat", ""); }, "wanted", "not blank");
  check_error([] { text_match("cat", " \n"); }, "wanted", "not blank");
}

TEST_CASE("the quoted text of a caption is between its first two double quotes") {
  CHECK(cf::quoted_text(R"(a sign that says "Open" and "Closed")") == "Open");
  CHECK(cf::quoted_text(R"("Open")") == "Open");
  CHECK(cf::quoted_text(R"(an empty "" sign)") == "");
  CHECK_FALSE(cf::quoted_text("a sign that says 'Open'"));
  CHECK_FALSE(cf::quoted_text("12\" of rain"));
  CHECK_FALSE(cf::quoted_text(""));
}

TEST_CASE("captions say what they want to be shown") {
  const cf::Captions captions{R"(a sign that says "Open")", R"(the word " Hello World ")"};
  CHECK(cf::wanted_texts(captions) == std::vector<std::string>{"Open", " Hello World "});
  CHECK(cf::wanted_texts(cf::Captions{}).empty());
  const auto refuse = [](const std::string& caption) {
    check_error(
        [&] {
          cf::wanted_texts(cf::Captions{R"(a "b")", caption});
        },
        "captions", "a text in double quotes, that is not blank, got " + caption);
  };
  refuse("a photo of a cat");
  refuse("12\" of rain");
  refuse(R"(an empty "" sign)");
  refuse(R"(a blank " " sign)");
}

TEST_CASE("records say what they want to be shown, by themselves or by their caption") {
  const cf::Records records{json{{"prompt", "a sign"}, {"text", "Open"}},
                            json{{"prompt", R"(a "Closed" door)"}},
                            json{{"prompt", R"(a "Closed" door)"}, {"text", "Open"}},
                            json{{"prompt", R"(a "Closed" door)"}, {"text", 7}}};
  CHECK(cf::wanted_texts(records) == std::vector<std::string>{"Open", "Closed", "Open", "Closed"});
  CHECK(cf::wanted_texts(cf::Records{json{{"sign", "Stop"}, {"text", "no"}}}, "sign") ==
        std::vector<std::string>{"Stop"});
  const auto refuse = [](const json& record) {
    check_error([&] { cf::wanted_texts(cf::Records{record}); }, "records",
                "a text \"text\", or a \"prompt\" with one in double quotes, that is not blank, "
                "got " +
                    record.dump());
  };
  refuse(json{{"prompt", "a photo of a cat"}});
  refuse(json{{"prompt", "a cat"}, {"text", 7}});
  refuse(json{{"prompt", R"(a "cat")"}, {"text", " "}});
  refuse(json::array());
}
