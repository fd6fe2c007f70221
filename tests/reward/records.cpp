// Prompts that are JSON records.

#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/combination.hpp>
#include <contraflow/reward/records.hpp>

#include "laws/errors.hpp"
#include "laws/reward.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using cf::Captions;
using cf::Records;
using cf::Tensor;
using laws::check_error;
using nlohmann::json;

namespace {

// As in GenEval's list of prompts.
const Records records{
    json::parse(R"({"tag": "counting", "include": [{"class": "cat", "count": 2}],
                    "prompt": "two cats"})"),
    json::parse(R"({"tag": "single_object", "include": [{"class": "dog", "count": 1}],
                    "prompt": "a dog", "caption": "un chien"})"),
    json::parse(R"({"prompt": ""})")};

// Scores a sample by its caption alone.
struct Lengths {
  std::vector<double> operator()(const Tensor&, const Captions& captions) const {
    std::vector<double> scores;
    for (const std::string& caption : captions) scores.push_back(double(caption.size()));
    return scores;
  }
};

}  // namespace

TEST_CASE("captions are found in records") {
  CHECK(cf::captions_of(records) == Captions{"two cats", "a dog", ""});
  CHECK(cf::captions_of({records[1]}, "caption") == Captions{"un chien"});
  CHECK(cf::captions_of({}).empty());
}

TEST_CASE("prompts are read as what they are") {
  const auto captions = [](const std::string& text) {
    return cf::captions_of(cf::records_in(text, "file"));
  };
  const Captions two{"two cats", "a dog"};
  CHECK(captions("two cats\na dog") == two);
  CHECK(captions("two cats\r\na dog\r\n") == two);
  CHECK(captions("\xEF\xBB\xBFtwo cats\na dog\n") == two);
  CHECK(captions("\n  \t\ntwo cats\n\n   a dog  \n \r\n") == two);
  CHECK(captions("{\"prompt\": \"two cats\"}\n{\"prompt\": \"a dog\", \"tag\": 1}\n") == two);
  CHECK(captions("\xEF\xBB\xBF\r\n {\"prompt\": \"two cats\"} \r\n\r\n{\"prompt\": \"a dog\"}") ==
        two);
  // A brace within a list of captions is a caption's.
  CHECK(captions("a cat\n{a dog}") == Captions{"a cat", "{a dog}"});
  CHECK(captions("eine Katze, \xC3\xBC") == Captions{"eine Katze, \xC3\xBC"});
  // What a judge wants to know stays.
  const Records read = cf::records_in(records[0].dump() + "\n" + records[1].dump(), "file");
  CHECK(read == Records{records[0], records[1]});

  check_error([&] { captions(""); }, "file", "a prompt a line");
  check_error([&] { captions("\xEF\xBB\xBF \r\n"); }, "file", "a prompt a line");
  check_error([&] { captions("{\"prompt\": \"a\"}\n\na dog"); }, "file:3", "JSON");
  check_error([&] { captions("{\"prompt\": \"a\"}\n{\"text\": \"b\"}"); }, "file:2",
              "got {\"text\": \"b\"}");
  check_error([&] { captions("{\"prompt\": 3}"); }, "file:1", "a text \"prompt\"");
  check_error([&] { captions("a cat\n\xFF\xFE"); }, "file:2", "text in UTF-8");
  check_error([&] { cf::read_records("no/file.txt"); }, "no/file.txt", "a readable file");
}

TEST_CASE("a record without a caption is shown") {
  check_error([] { cf::captions_of(records, "caption"); }, "records",
              "objects with a text \"caption\", got {\"include\":");
  check_error([] { cf::captions_of({json{{"prompt", 3}}}); }, "records", "got {\"prompt\":3}");
  check_error([] { cf::captions_of({json("two cats")}); }, "records", "got \"two cats\"");
  check_error([] { cf::captions_of({json()}); }, "records", "got null");
  check_error([] { cf::captions_of({json::array({"prompt"})}); }, "records", "got [\"prompt\"]");
  check_error([] { cf::captions_of({json{{"text", "\xFF"}}}); }, "records", "{\"text\":");
}

TEST_CASE("what is no prompt a line is refused, not read as some") {
  const auto refused = [](const std::string& text, const char* place, const char* words) {
    INFO(text);
    check_error([&] { cf::records_in(text, "file"); }, place, words);
  };
  refused("[\"a cat\", \"a dog\"]", "file", "got a JSON array");
  refused("\xEF\xBB\xBF\n[\n  {\"prompt\": \"a cat\"}\n]\n", "file", "got a JSON array");
  refused("a cat\n{\"prompt\": \"a dog\"}", "file:2", "got a JSON object");
  refused("a cat\ra dog\r", "file:1", "a carriage return");
  refused(std::string("a\0cat", 5), "file", "a zero byte");
  CHECK(cf::captions_of(cf::records_in("[red] cat\n{a} dog\r\n", "file")) ==
        Captions{"[red] cat", "{a} dog"});
  // An array is only one where the text is nothing else.
  CHECK(cf::captions_of(cf::records_in("a cat\n[1]\n", "file")) == Captions{"a cat", "[1]"});
}

TEST_CASE("a reward on captions scores prompts that are records") {
  const cf::OnCaptions reward{Lengths{}};
  static_assert(cf::Reward<decltype(reward), Records>);
  static_assert(!cf::Reward<Lengths, Records>);
  const Tensor x0 = laws::floats({3, 2});
  CHECK(reward(x0, records) == std::vector<double>{8, 5, 0});
  laws::reward(reward, x0, records);
  CHECK(cf::OnCaptions(Lengths{}, "caption")(x0.narrow(0, 0, 1), {records[1]}) ==
        std::vector<double>{8});
}

TEST_CASE("one bag holds rewards on captions and judges of records") {
  const auto wanted = [](const Tensor&, const Records& list) {
    std::vector<double> counts;
    for (const json& record : list) {
      counts.push_back(record.contains("include") ? record["include"][0]["count"].get<double>()
                                                  : 0);
    }
    return counts;
  };
  const auto bag = cf::rewards("length"_r = cf::OnCaptions(Lengths{}), "count"_r = wanted);
  const cf::ScoreSheet sheet = bag.score(laws::floats({3, 2}), records);
  CHECK(at::equal(sheet.scores,
                  at::tensor({8.0, 5.0, 0.0, 2.0, 1.0, 0.0}, at::kDouble).view({2, 3})));
  const cf::ScoreSheet uncaptioned = bag.score(laws::floats({1, 2}), Records{{{"tag", "x"}}});
  CHECK(uncaptioned.scores[0].isnan().all().item<bool>());
  REQUIRE(uncaptioned.failures.size() == 1);
  CHECK(uncaptioned.failures[0].starts_with("length: records: expected objects with a text"));
}
