// A chat model as a judge, against a server that answers as such models do, and otherwise.

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <httplib.h>
#include <nlohmann/json.hpp>

#include <contraflow/io/base64.hpp>
#include <contraflow/io/image.hpp>
#include <contraflow/reward/chat_judge.hpp>
#include <contraflow/reward/concept.hpp>

#include "laws/errors.hpp"
#include "laws/reward.hpp"
#include "servers.hpp"

namespace cf = contraflow;
using Catch::Approx;
using cf::Captions;
using cf::ChatJudge;
using cf::Records;
using cf::Tensor;
using laws::check_error;
using local::say;
using local::Server;
using local::shades;
using nlohmann::json;

namespace {

const std::string path = "/v1/chat/completions";

json completion(const std::string& text) {
  return {{"object", "chat.completion"},
          {"choices",
           {{{"index", 0},
             {"finish_reason", "stop"},
             {"message", {{"role", "assistant"}, {"content", text}}}}}}};
}

void complete(httplib::Response& response, const std::string& text) {
  say(response, completion(text).dump());
}

Tensor picture_in(const json& request) {
  const std::string url =
      request.at("/messages/0/content/0/image_url/url"_json_pointer).get<std::string>();
  const std::string head = "data:image/png;base64,";
  REQUIRE(url.starts_with(head));
  return cf::decode_image(cf::decode_base64(url.substr(head.size())));
}

std::string question_in(const json& request) {
  return request.at("/messages/0/content/1/text"_json_pointer).get<std::string>();
}

// Answers with the mean of the picture's pixels.
void mean_of_pixels(const json& request, int, httplib::Response& response) {
  const double mean = picture_in(request).mean().item<double>();
  complete(response, "It is so bright:\n**Score**: " + std::to_string(mean));
}

Server::Answer always(const std::string& text) {
  return [=](const json&, int, httplib::Response& response) { complete(response, text); };
}

ChatJudge judge_of(const Server& server) {
  return {.url = server.host(),
          .question = "How bright?",
          .greatest = 1,
          .timeout_seconds = 20,
          .backoff_seconds = 0.001};
}

// The score of an image that got an answer, before it is brought to [0, 1]; NaN for none.
struct Judged {
  ChatJudge judge = {.url = ""};
  std::string other = "score: 10";  // what is answered for another image

  double operator()(const std::string& answer) const {
    const Server server(
        [&](const json& request, int, httplib::Response& response) {
          complete(response, question_in(request) == "0" ? answer : other);
        },
        path);
    ChatJudge asked = judge;
    asked.url = server.host();
    asked.question = "{number}";
    const Tensor scores = asked(shades(2), Records{{{"number", 0}}, {{"number", 1}}});
    CHECK(scores[1].item<double>() == 1);
    return scores[0].item<double>() * 10;
  }
};

}  // namespace

TEST_CASE("a chat judge sends a picture and a question, and the answer's score is the reward") {
  Server server(mean_of_pixels, path);
  ChatJudge judge = judge_of(server);
  judge.model = "some/judge";
  judge.max_tokens = 77;
  judge.question = "Is this \"{prompt}\"?";
  const Tensor images = shades(3);
  const Tensor scores = judge(images, {"a", "b {tag}", "\xC3\xA9\n"});
  CHECK(scores.scalar_type() == at::kFloat);
  CHECK(at::allclose(scores, at::arange(3) / 255.0F, 0, 1e-5));
  REQUIRE(server.requests().size() == 3);
  for (const json& request : server.requests()) {
    const std::string question = question_in(request);
    const std::int64_t i = question == "Is this \"a\"?"         ? 0
                           : question == "Is this \"b {tag}\"?" ? 1
                                                                : 2;
    if (i == 2) CHECK(question == "Is this \"\xC3\xA9\n\"?");
    CHECK(at::allclose(picture_in(request), images[i]));
    CHECK(request["model"] == "some/judge");
    CHECK(request["temperature"] == 0);
    CHECK(request["max_tokens"] == 77);
    CHECK(request["messages"].size() == 1);
    CHECK(request["messages"][0]["role"] == "user");
    CHECK(request["messages"][0]["content"][0]["type"] == "image_url");
    CHECK(request["messages"][0]["content"][1]["type"] == "text");
  }
  CHECK(server.headers().count("Authorization") == 0);

  INFO("without a name the server takes the model that it has");
  judge.model = "";
  judge(shades(1), {"a"});
  CHECK_FALSE(server.requests().back().contains("model"));
}

TEST_CASE("a chat judge keeps the laws of rewards") {
  Server server(mean_of_pixels, path);
  static_assert(cf::Reward<ChatJudge, Captions> && cf::Reward<ChatJudge, Records>);
  laws::reward(judge_of(server), shades(7));
  laws::reward(judge_of(server), shades(7), Captions(7, "a shade"));
}

TEST_CASE("a question holds the fields of the prompt's record") {
  Server server(mean_of_pixels, path);
  ChatJudge judge = judge_of(server);
  judge.question = "{{\"a\": {prompt}}} {tag} {include} {n}{n}";
  const json record{
      {"prompt", "{tag} {{"}, {"tag", "counting"}, {"include", {{{"class", "cat"}}}}, {"n", 2}};
  judge(shades(1), Records{record});
  CHECK(question_in(server.requests().at(0)) == R"({"a": {tag} {{} counting [{"class":"cat"}] 22)");
}

TEST_CASE("a question that a prompt cannot fill is an error by name, and nothing is asked") {
  Server server(mean_of_pixels, path);
  ChatJudge judge = judge_of(server);
  judge.question = "{prompt} {tag}";
  const Records records{{{"prompt", "a"}, {"tag", "b"}}, {{"prompt", "a"}, {"tag", nullptr}}};
  check_error([&] { judge(shades(2), records); }, "question", "{tag}");
  check_error([&] { judge(shades(1), {"a"}); }, "question", "{tag}");
  check_error([&] { judge(shades(1)); }, "question", "{prompt}");
  check_error([&] { judge(shades(1), Records{7}); }, "question", "{prompt}");
  for (const char* question : {"{", "}", "a {prompt", "a } b", "{prompt}}", "{{{"}) {
    INFO(question);
    judge.question = question;
    check_error([&] { judge(shades(1), {"a"}); }, "question", "braces around names");
  }
  judge.question = "{}";
  check_error([&] { judge(shades(1), {"a"}); }, "question", "{}");
  CHECK(server.requests().empty());
}

TEST_CASE("the score is the number behind the last \"score:\", or all of the answer") {
  const Judged score;
  const std::vector<std::pair<const char*, double>> answers{
      {"7", 7},
      {" 7.5\n", 7.5},
      {"**8**", 8},
      {"score: 7", 7},
      {"SCORE=+0.25", 0.25},
      {"Score: 7/10", 7},
      {"**Score:** 7.", 7},
      {R"({"reason": "2 cats, 1 dog", "score": 7})", 7},
      {R"({"final_score": 1e1})", 10},
      {"score: 3, since 4 are missing.\n\nFinal score: 8 - good", 8},
      {"score: .5", 0.5},
      {"score: 0", 0},
      {"score: 10", 10},
  };
  for (const auto& [answer, expected] : answers) {
    INFO(answer);
    CHECK(score(answer) == Approx(expected));
  }
}

TEST_CASE("an answer without a score in range is a missing score, not a guess") {
  const Judged score;
  for (const char* answer :
       {"", "good", "7 of 10", "I count 3 cats.", "Score (0-10): 7", "score: seven", "score: 7-8",
        "score: 7,5", "score: 1.2.3", "underscore: 4", "score: nan", "score: inf", "score: -1",
        "score: 10.01", "11", "score: 1e999", "score: 1e-999", "score: 0x7"}) {
    INFO(answer);
    CHECK(std::isnan(score(answer)));
  }
  CHECK(std::isnan(score("score: " + std::string(50000, '7'))));
}

TEST_CASE("scores go from their scale to [0, 1]") {
  Server server(always("score: -0.5"), path);
  ChatJudge judge = judge_of(server);
  judge.least = -1;
  judge.greatest = 3;
  CHECK(judge(shades(1)).item<float>() == 0.125F);
}

TEST_CASE("a pattern of one's own finds the score, in the end of a long answer") {
  const Judged stars{{.url = "", .score_pattern = "(\\d+) stars"}, "10 stars"};
  CHECK(stars("1 stars for light, 3 stars in all; score: 9") == Approx(3));
  CHECK(std::isnan(stars("score: 9")));
  CHECK(stars(std::string(60000, 'x') + "4 stars") == Approx(4));
  CHECK(std::isnan(stars("4 stars" + std::string(4096, 'x'))));
  INFO("one that goes through all of the answer");
  const Judged greedy{{.url = "", .score_pattern = "(?:.|\n)*: (.*)"}};
  CHECK(greedy(std::string(20000, '\n') + "so: 4") == Approx(4));
  CHECK(std::isnan(greedy("so: 4 stars")));

  ChatJudge judge{.url = "http://127.0.0.1:9"};
  for (const char* pattern : {"(", "[", "no group", "(?:7)"}) {
    judge.score_pattern = pattern;
    check_error([&] { judge(shades(1), {"a"}); }, "score_pattern", pattern);
  }
}

TEST_CASE("what is no completion is an error that says so") {
  const std::string text = R"("choices": [{"message": {"content": "score: 1"})";
  json cut = completion("score: 1");
  cut["choices"][0]["finish_reason"] = "length";
  json parts = completion("");
  parts["choices"][0]["message"]["content"] = {{{"type", "text"}, {"text", "score: 1"}}};
  json refusal = completion("");
  refusal["choices"][0]["message"]["content"] = nullptr;
  const std::vector<std::pair<std::string, std::string>> answers{
      {"", "JSON"},
      {"rubbish", "JSON"},
      {"{" + text, "JSON"},
      {"{\"choices\": []}", "choices[0].message.content"},
      {"{\"choices\": {\"message\": 1}}", "choices[0].message.content"},
      {"[1]", "choices[0].message.content"},
      {"7", "choices[0].message.content"},
      {R"({"error": {"message": "no such model"}})", "no such model"},
      {parts.dump(), "choices[0].message.content"},
      {refusal.dump(), "choices[0].message.content"},
      {cut.dump(), "cut off"},
      {"{" + text + "}], \"more\": \"" + std::string(1 << 18, 'x') + "\"}", "a longer answer"},
  };
  for (const auto& [answer, part] : answers) {
    INFO(answer.substr(0, 100));
    Server server([&, answer = answer](const json&, int,
                                       httplib::Response& response) { say(response, answer); },
                  path);
    check_error([&] { judge_of(server)(shades(2)); }, server.host() + path, part);
    CHECK(server.requests().size() == 2);
  }
  Server server(
      [](const json&, int, httplib::Response& response) {
        say(response, R"({"error": "no such model"})", 404);
      },
      path);
  check_error([&] { judge_of(server)(shades(1)); }, server.host() + path, "no such model");
}

TEST_CASE("an image without a score leaves those of the others, in whatever order they come") {
  Server server(
      [](const json& request, int number, httplib::Response& response) {
        const auto shade = std::lround(picture_in(request).mean().item<double>() * 255);
        // The first come last.
        std::this_thread::sleep_for(std::chrono::milliseconds(shade < 4 ? 50 : 0));
        if (shade == 3) return complete(response, "I would rather not.");
        if (shade == 5) return say(response, "busy", 503);
        mean_of_pixels(request, number, response);
      },
      path);
  ChatJudge judge = judge_of(server);
  judge.retries = 1;
  std::vector<std::string> failures;
  judge.on_failure = [&](const cf::Error& failure) { failures.push_back(failure.got()); };
  const Tensor scores = judge(shades(8));
  CHECK(at::equal(scores.isnan(), at::tensor({0, 0, 0, 1, 0, 1, 0, 0}).to(at::kBool)));
  CHECK(at::allclose(scores.nan_to_num(0) * 255,
                     at::tensor({0.0F, 1.0F, 2.0F, 0.0F, 4.0F, 0.0F, 6.0F, 7.0F}), 0, 1e-3));
  CHECK(failures == std::vector<std::string>{"\"I would rather not.\"", "status 503, \"busy\""});
  CHECK(server.requests().size() == 9);
}

TEST_CASE("a broken image has no score") {
  Server server(always("score: 1"), path);
  Tensor images = shades(2).clone();
  images[1][0][0][0] = std::nan("");
  CHECK(at::equal(judge_of(server)(images).isnan(), at::tensor({0, 1}).to(at::kBool)));
}

TEST_CASE("a key comes from the environment and is shown to nobody but the server") {
  Server server([](const json&, int,
                   httplib::Response& response) { say(response, "no such key: secret-4711", 401); },
                path);
  ChatJudge judge = judge_of(server);
  judge.api_key_variable = "CONTRAFLOW_TEST_KEY";
  ::unsetenv("CONTRAFLOW_TEST_KEY");
  check_error([&] { judge(shades(1)); }, "api_key_variable", "CONTRAFLOW_TEST_KEY, not set");
  for (const char* key : {"secret 4711", "secret-4711\r\nX: y", "secret-4711\n"}) {
    ::setenv("CONTRAFLOW_TEST_KEY", key, 1);
    check_error([&] { judge(shades(1)); }, "api_key_variable",
                "CONTRAFLOW_TEST_KEY, of other characters");
  }
  CHECK(server.requests().empty());
  ::setenv("CONTRAFLOW_TEST_KEY", "secret-4711", 1);
  std::string told;
  judge.on_failure = [&](const cf::Error& failure) { told = failure.what(); };
  check_error([&] { judge(shades(1)); }, server.host() + path, "status 401");
  CHECK(server.headers().find("Authorization")->second == "Bearer secret-4711");
  CHECK_THAT(told, !Catch::Matchers::ContainsSubstring("4711"));
  ::unsetenv("CONTRAFLOW_TEST_KEY");
}

TEST_CASE("a path of its own is taken as it stands") {
  Server server(always("score: 1"), "/judge/chat");
  ChatJudge judge = judge_of(server);
  judge.url += "/judge/chat?version=2";
  CHECK(judge(shades(1)).item<float>() == 1);
}

TEST_CASE("settings of a chat judge are read from a file") {
  const auto file = std::filesystem::path("chat_judge_settings.json");
  const auto read = [&](const json& settings) {
    std::ofstream(file) << settings;
    return cf::read_chat_judge(file);
  };
  const json all{{"url", "http://host"},
                 {"model", "m"},
                 {"question", "q"},
                 {"score_pattern", "(s)"},
                 {"least", -1},
                 {"greatest", 2.5},
                 {"max_tokens", 3},
                 {"api_key_variable", "K"},
                 {"requests_in_flight", 4},
                 {"timeout_seconds", 5},
                 {"retries", 6},
                 {"backoff_seconds", 7}};
  const ChatJudge judge = read(all);
  CHECK((judge.url == "http://host" && judge.model == "m" && judge.question == "q"));
  CHECK((judge.score_pattern == "(s)" && judge.least == -1 && judge.greatest == 2.5));
  CHECK((judge.max_tokens == 3 && judge.api_key_variable == "K"));
  CHECK((judge.requests_in_flight == 4 && judge.timeout_seconds == 5));
  CHECK((judge.retries == 6 && judge.backoff_seconds == 7));
  const ChatJudge plain = read({{"url", "u"}}), fallback;
  CHECK((plain.question == fallback.question && plain.greatest == 10 && plain.max_tokens == 256));
  const std::string name = file.string();
  check_error([&] { read({{"url", "u"}, {"api_key", "x"}}); }, name, "\"api_key\"");
  check_error([&] { read({{"model", "m"}}); }, name + ": \"url\"", "an entry");
  check_error([&] { read({{"url", "u"}, {"least", "0"}}); }, name + ": \"least\"", "a number");
  std::filesystem::remove(file);
}

TEST_CASE("a chat judge refuses what it cannot ask") {
  const auto with = [](const ChatJudge& judge) { return [=] { judge(shades(2), {"a", "b"}); }; };
  check_error(with({.url = "host"}), "url", "an address such as");
  const std::string url = "http://127.0.0.1:9";
  check_error(with({.url = url, .least = NAN}), "least", "finite");
  check_error(with({.url = url, .least = 1, .greatest = 1}), "greatest", "above least");
  check_error(with({.url = url, .greatest = INFINITY}), "greatest", "finite");
  check_error(with({.url = url, .max_tokens = 0}), "max_tokens", "at least 1");
  check_error(with({.url = url, .requests_in_flight = 0}), "requests_in_flight", "at least 1");
  check_error(with({.url = url, .timeout_seconds = 0}), "timeout_seconds", "above 0");
  const ChatJudge judge{.url = url};
  check_error([&] { judge(at::zeros({3, 4, 4})); }, "images", "[B, 3, H, W]");
  check_error([&] { judge(shades(2), {"one"}); }, "captions", "one an image, 2");
  check_error([&] { judge(shades(2), Records{{{"prompt", "a"}}}); }, "records", "one an image, 2");
}
