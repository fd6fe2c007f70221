// A reward over HTTP, against servers that answer well, late, wrongly and not at all.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <httplib.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <unistd.h>

#include <contraflow/io/image.hpp>
#include <contraflow/reward/combination.hpp>
#include <contraflow/reward/remote.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "laws/reward.hpp"
#include "servers.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using cf::Captions;
using cf::Remote;
using cf::Tensor;
using laws::check_error;
using local::bound_socket;
using local::image_in;
using local::port_of;
using local::RawServer;
using local::say;
using local::Server;
using local::shades;
using local::url_of;
using nlohmann::json;

namespace {

// Scores images by their mean.
void mean_of_pixels(const json& request, int, httplib::Response& response) {
  json scores = json::array();
  for (std::size_t i = 0; i < request["images"].size(); ++i) {
    scores.push_back(image_in(request, i).mean().item<double>());
  }
  say(response, json{{"scores", scores}}.dump());
}

Server::Answer always(const std::string& text, int status = 200) {
  return [=](const json&, int, httplib::Response& response) { say(response, text, status); };
}

Remote remote_of(const Server& server, std::int64_t batch = 32) {
  return {.url = server.url(), .batch = batch, .timeout_seconds = 20, .backoff_seconds = 0.001};
}

// The number of the first image of a request made of shades().
std::int64_t shade_in(const json& request) {
  return std::lround(image_in(request, 0).mean().item<double>() * 255);
}

// Sends what fits until the other side hangs up or it is over.
void send_again_and_again(int connection, const std::string& text, const std::atomic<bool>& over,
                          std::chrono::milliseconds pause) {
  while (!over && ::send(connection, text.data(), text.size(), MSG_NOSIGNAL) > 0) {
    std::this_thread::sleep_for(pause);
  }
}

bool all_missing(const Tensor& scores) { return scores.isnan().all().item<bool>(); }

}  // namespace

TEST_CASE("base64 is that of RFC 4648, section 10, and comes back") {
  const std::vector<std::pair<std::string, std::string>> published{{"", ""},
                                                                   {"f", "Zg=="},
                                                                   {"fo", "Zm8="},
                                                                   {"foo", "Zm9v"},
                                                                   {"foob", "Zm9vYg=="},
                                                                   {"fooba", "Zm9vYmE="},
                                                                   {"foobar", "Zm9vYmFy"}};
  for (const auto& [plain, text] : published) {
    const std::vector<std::uint8_t> bytes(plain.begin(), plain.end());
    CHECK(cf::encode_base64(bytes) == text);
    CHECK(cf::decode_base64(text) == bytes);
  }
  std::vector<std::uint8_t> all(256);
  for (std::size_t i = 0; i < 256; ++i) all[i] = std::uint8_t(255 - i);
  CHECK(cf::decode_base64(cf::encode_base64(all)) == all);
  for (const char* wrong : {"Zg", "Zg=", "====", "Z===", "Zm=v", "=m9v", "Zm 9", "Zm9\n", "Zm9-"}) {
    INFO(wrong);
    check_error([&] { cf::decode_base64(wrong); }, "text", "Base64");
  }
  check_error([] { cf::decode_base64("Zg"); }, "text", "got 2 characters");
}

TEST_CASE("a remote reward sends images and captions and returns the scores in order") {
  Server server(mean_of_pixels);
  const Tensor images = shades(5);
  const Captions captions{"a", "b", "\"c\"", "d\n", "\xC3\xA9"};
  CHECK(at::allclose(remote_of(server)(images, captions).scores, at::arange(5) / 255.0F));
  const json request = server.requests().at(0);
  CHECK(request["captions"] == json(captions));
  REQUIRE(request["images"].size() == 5);
  const Tensor sent = image_in(request, 3);
  CHECK(sent.sizes() == at::IntArrayRef({3, 4, 6}));
  CHECK(at::allclose(sent, images[3]));

  INFO("without captions there is no such entry");
  remote_of(server)(images);
  CHECK_FALSE(server.requests().at(1).contains("captions"));
}

TEST_CASE("a remote reward keeps the laws of rewards") {
  Server server(mean_of_pixels);
  static_assert(cf::Reward<Remote, Captions>);
  laws::reward(remote_of(server, 3), shades(7));
  laws::reward(remote_of(server, 3), shades(7), Captions(7, "a shade"));
}

TEST_CASE("a remote judge is told the records of prompts beside their captions") {
  Server server(mean_of_pixels);
  static_assert(cf::Reward<Remote, cf::Records>);
  const cf::Records records{
      {{"prompt", "two cats"}, {"include", {{{"class", "cat"}, {"count", 2}}}}},
      {{"prompt", "a \"dog\""}, {"tag", "single"}},
      {{"prompt", ""}, {"tag", nullptr}}};
  CHECK(at::allclose(remote_of(server, 2)(shades(3), records).scores, at::arange(3) / 255.0F));
  std::vector<json> requests = server.requests();
  REQUIRE(requests.size() == 2);
  CHECK(requests[0]["metadata"] == json({records[0], records[1]}));
  CHECK(requests[1]["metadata"] == json({records[2]}));
  CHECK(requests[0]["captions"] == json({"two cats", "a \"dog\""}));
  CHECK(requests[1]["captions"] == json::array({""}));
  CHECK(requests[0]["images"].size() == 2);

  INFO("records without captions are enough for a judge that knows them");
  remote_of(server)(shades(2), cf::Records{{{"goal", 1}}, {{"prompt", 3}}});
  requests = server.requests();
  CHECK(requests[2]["metadata"] == json::parse(R"([{"goal": 1}, {"prompt": 3}])"));
  CHECK_FALSE(requests[2].contains("captions"));

  INFO("and where there are none, no such entry");
  remote_of(server)(shades(1), {"a"});
  CHECK_FALSE(server.requests().at(3).contains("metadata"));
  check_error([&] { remote_of(server)(shades(2), records); }, "records", "one an image, 2, got 3");
}

TEST_CASE("a remote reward asks for at most a batch of images at a time") {
  Server server(mean_of_pixels);
  const Captions captions{"0", "1", "2", "3", "4", "5", "6"};
  CHECK(at::allclose(remote_of(server, 3)(shades(7), captions).scores, at::arange(7) / 255.0F));
  const std::vector<json> requests = server.requests();
  REQUIRE(requests.size() == 3);
  CHECK(requests[0]["captions"] == json({"0", "1", "2"}));
  CHECK(requests[1]["captions"] == json({"3", "4", "5"}));
  CHECK(requests[2]["captions"] == json({"6"}));
}

TEST_CASE("captions that are not UTF-8 reach the server with replacements") {
  Server server(mean_of_pixels);
  CHECK(remote_of(server)(shades(1), {"a\xFF"}).scores.isfinite().item<bool>());
  CHECK(server.requests().at(0)["captions"] == json({"a\xEF\xBF\xBD"}));
}

TEST_CASE("null is a missing score, and so is one of a broken image") {
  Server server(always(R"({"scores": [null, 2, -1.5]})"));
  Tensor images = shades(3).clone();
  images[2][0][0][0] = std::nan("");
  const Tensor scores = remote_of(server)(images).scores;
  CHECK(std::isnan(scores[0].item<float>()));
  CHECK(scores[1].item<float>() == 2);
  CHECK(std::isnan(scores[2].item<float>()));
}

TEST_CASE("a judge abstains by a word, from what it was sent") {
  Server server(always(R"({"scores": [0.5, "abstain", null, "abstain"]})"));
  Tensor images = shades(4).clone();
  images[3][0][0][0] = std::nan("");
  const cf::ScoreSheet sheet = cf::as_rewards(remote_of(server)).score(images, cf::Unconditional{});
  CHECK(at::equal(sheet.abstained[0], at::tensor({0, 1, 0, 0}).to(at::kBool)));
  CHECK(sheet.scores[0][0].item<double>() == 0.5);
  CHECK(all_missing(sheet.scores[0].slice(0, 1)));
}

TEST_CASE("statuses that may pass are tried again") {
  for (const int status : {500, 503, 429}) {
    Server server([&](const json& request, int number, httplib::Response& response) {
      if (number <= 2) return say(response, "busy", status);
      mean_of_pixels(request, number, response);
    });
    CHECK(at::allclose(remote_of(server)(shades(2)).scores, at::arange(2) / 255.0F));
    CHECK(server.requests().size() == 3);
  }
}

TEST_CASE("retries end, and the error says how many tries there were and why") {
  Server server(always("down", 502));
  Remote remote = remote_of(server);
  remote.retries = 2;
  check_error([&] { remote(shades(2)); }, server.url(), "3 tries, got status 502");
  CHECK(server.requests().size() == 3);
  remote.retries = 0;
  check_error([&] { remote(shades(2)); }, server.url(), "1 tries, got status 502");
  CHECK(server.requests().size() == 4);
}

TEST_CASE("a request that the server refuses is not tried again") {
  Server server(always("who are you", 403));
  check_error([&] { remote_of(server)(shades(2)); }, server.url(), "status 403");
  CHECK(server.requests().size() == 1);
}

TEST_CASE("an answer that holds no scores is an error, at once") {
  const std::vector<std::pair<std::string, std::string>> answers{
      {"", "JSON"},
      {"not json", "JSON"},
      {R"({"scores": [1, 2)", "JSON"},
      {"[1, 2]", "a list \"scores\", got array"},
      {"7", "a list \"scores\", got number"},
      {R"({"score": [1, 2]})", "a list \"scores\""},
      {R"({"scores": 1})", "a list \"scores\""},
      {R"({"scores": [1]})", "2 scores, got 1"},
      {R"({"scores": [1, 2, 3]})", "2 scores, got 3"},
      {R"({"scores": [1, "2"]})", "null or \"abstain\", got string"},
      {R"({"scores": [1, true]})", "null or \"abstain\", got boolean"},
      {R"({"scores": [1, NaN]})", "JSON"},
      {R"({"scores": [1, 1e999]})", "JSON"},
      {R"({"scores": [1, 2], "scores": [3, 4]})", "every key once"},
      {R"({"scores": [1, 2], "more": ")" + std::string(1 << 17, 'x') + "\"}", "a longer answer"},
  };
  for (const auto& [answer, part] : answers) {
    INFO(answer.substr(0, 100));
    Server server(always(answer));
    check_error([&] { remote_of(server)(shades(2)); }, server.url(), part);
    CHECK(server.requests().size() == 1);
  }
}

TEST_CASE("what fails for one request leaves the scores of the others") {
  Server server([](const json& request, int number, httplib::Response& response) {
    if (number == 2) return say(response, "oops", 400);
    mean_of_pixels(request, number, response);
  });
  std::vector<std::string> failures;
  Remote remote = remote_of(server, 2);
  remote.on_failure = [&](const cf::Error& failure) { failures.push_back(failure.got()); };
  const Tensor scores = remote(shades(6)).scores;
  CHECK(all_missing(scores.narrow(0, 2, 2)));
  CHECK(at::allclose(scores.index_select(0, at::tensor({0, 1, 4, 5})),
                     at::tensor({0.0F, 1.0F, 4.0F, 5.0F}) / 255));
  CHECK(failures == std::vector<std::string>{R"(status 400, "oops")"});
}

TEST_CASE("no answer in time is tried again and then given up") {
  std::promise<void> over;
  std::shared_future<void> ended = over.get_future().share();
  Server server([&](const json& request, int number, httplib::Response& response) {
    if (number <= 2) ended.wait();
    mean_of_pixels(request, number, response);
  });
  Remote remote = remote_of(server);
  remote.timeout_seconds = 0.2;
  remote.retries = 1;
  check_error([&] { remote(shades(2)); }, server.url(), "2 tries, got no answer");
  remote.timeout_seconds = 20;
  CHECK(at::allclose(remote(shades(2)).scores, at::arange(2) / 255.0F));
  over.set_value();
}

TEST_CASE("what comes or goes drop by drop is late too") {
  using namespace std::chrono_literals;
  std::atomic<bool> over = false;
  const std::string ok = "HTTP/1.1 200 OK\r\n", body = ok + "Content-Length: 60000\r\n\r\n";
  const std::vector<std::pair<const char*, std::function<void(int)>>> servers{
      {"an answer",
       [&](int connection) {
         ::send(connection, body.data(), body.size(), MSG_NOSIGNAL);
         send_again_and_again(connection, " ", over, 5ms);
       }},
      {"headers",
       [&](int connection) {
         ::send(connection, ok.data(), ok.size(), MSG_NOSIGNAL);
         send_again_and_again(connection, "A: b\r\n", over, 5ms);
       }},
      {"one header",
       [&](int connection) {
         ::send(connection, ok.data(), ok.size(), MSG_NOSIGNAL);
         send_again_and_again(connection, "a", over, 5ms);
       }},
      {"a request",
       [&](int connection) {
         char some[4096];
         while (!over && ::recv(connection, some, sizeof some, 0) > 0) {
           std::this_thread::sleep_for(5ms);
         }
       }},
  };
  const Tensor large = laws::floats({4, 3, 512, 512}).sigmoid();  // more than sockets hold
  for (const auto& [what, with] : servers) {
    INFO(what);
    over = false;
    RawServer server(with);
    const Remote remote{.url = server.url(), .timeout_seconds = 0.3, .retries = 0};
    check_error([&] { remote(large); }, server.url(), "no answer");
    over = true;
  }
}

TEST_CASE("an answer without an end is not read to the end") {
  std::atomic<bool> over = false;
  RawServer server([&](int connection) {
    const std::string head = "HTTP/1.1 200 OK\r\n\r\n";
    ::send(connection, head.data(), head.size(), MSG_NOSIGNAL);
    send_again_and_again(connection, std::string(1 << 16, ' '), over, {});
  });
  const Remote remote{.url = server.url(), .timeout_seconds = 20, .retries = 3};
  check_error([&] { remote(shades(1)); }, server.url(), "1 tries, got a longer answer");
  over = true;
}

TEST_CASE("a server that hangs up in the middle of its answer is tried again") {
  std::atomic<int> answers = 0;
  RawServer server([&](int connection) {
    char some[4096];
    if (::recv(connection, some, sizeof some, 0) < 0) return;
    const std::string body = R"({"scores": [2]})";
    const std::string answer = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + body;
    // Whole at the third try.
    const std::size_t size = answer.size() - (++answers < 3 ? 4 : 0);
    ::send(connection, answer.data(), size, MSG_NOSIGNAL);
  });
  const Remote remote{
      .url = server.url(), .timeout_seconds = 20, .retries = 2, .backoff_seconds = 0.001};
  CHECK(remote(shades(1)).scores.item<float>() == 2);
  CHECK(answers == 3);
}

TEST_CASE("so many requests are asked at a time, and scores are in the order of the samples") {
  constexpr int most = 4, batches = 12;
  std::mutex mutex;
  std::condition_variable change;
  int here = 0, greatest = 0, come = 0;
  std::map<int, int> gone;  // by round
  // Holds requests back until a round of them is there, and lets the last one out first.
  Server server([&](const json& request, int number, httplib::Response& response) {
    std::unique_lock lock(mutex);
    const int place = come++ % most, round = (come - 1) / most;
    greatest = std::max(greatest, ++here);
    change.notify_all();
    const auto is_next = [&] {
      return come >= (round + 1) * most && gone[round] == most - 1 - place;
    };
    change.wait_for(lock, std::chrono::seconds(20), is_next);
    mean_of_pixels(request, number, response);
    --here;
    ++gone[round];
    change.notify_all();
  });
  Remote remote = remote_of(server, 2);
  remote.requests_in_flight = most;
  CHECK(at::allclose(remote(shades(2 * batches)).scores, at::arange(2 * batches) / 255.0F));
  CHECK(greatest == most);
  CHECK(server.requests().size() == batches);
}

TEST_CASE("of several requests at a time each fails by itself, and is told of in order") {
  std::promise<void> over;
  std::shared_future<void> ended = over.get_future().share();
  Server server([&](const json& request, int number, httplib::Response& response) {
    switch (shade_in(request)) {
      case 1:
        return say(response, R"({"scores": [NaN]})");
      case 2:
        return ended.wait();
      case 4:
        return say(response, R"({"scores": [1, 2]})");
      case 5:
        return say(response, "gone", 410);
      case 7:
        return say(response, std::string(1 << 18, 'x'));
      default:
        return mean_of_pixels(request, number, response);
    }
  });
  Remote remote = remote_of(server, 1);
  remote.requests_in_flight = 3;
  remote.timeout_seconds = 2;
  remote.retries = 0;
  std::vector<std::string> failures;
  const auto here = std::this_thread::get_id();
  remote.on_failure = [&](const cf::Error& failure) {
    CHECK(std::this_thread::get_id() == here);
    failures.push_back(failure.got());
  };
  const Tensor scores = remote(shades(9)).scores;
  over.set_value();
  CHECK(at::equal(scores.isnan(), at::tensor({0, 1, 1, 0, 1, 1, 0, 1, 0}).to(at::kBool)));
  CHECK(at::allclose(scores.nan_to_num(0),
                     at::tensor({0.0F, 0.0F, 0.0F, 3.0F, 0.0F, 0.0F, 6.0F, 0.0F, 8.0F}) / 255));
  REQUIRE(failures.size() == 5);
  using Catch::Matchers::StartsWith;
  CHECK_THAT(failures[0], StartsWith("invalid JSON"));
  CHECK_THAT(failures[1], StartsWith("no answer"));
  CHECK(failures[2] == "2");
  CHECK(failures[3] == R"(status 410, "gone")");
  CHECK(failures[4] == "a longer answer than scores can be");
}

TEST_CASE("of several requests at a time each is tried again by itself") {
  std::mutex mutex;
  std::map<std::int64_t, int> tries;
  Server server([&](const json& request, int number, httplib::Response& response) {
    int own = 0;
    {
      const std::lock_guard lock(mutex);
      own = ++tries[shade_in(request)];
    }
    if (own <= 2) return say(response, "busy", 503);
    mean_of_pixels(request, number, response);
  });
  Remote remote = remote_of(server, 1);
  remote.requests_in_flight = 5;
  remote.retries = 2;
  CHECK(at::allclose(remote(shades(8)).scores, at::arange(8) / 255.0F));
  CHECK(server.requests().size() == 24);
}

TEST_CASE("a server that hangs up in the middle of a request is tried again") {
  RawServer server([](int connection) {
    char some[16];
    if (::recv(connection, some, sizeof some, 0) < 0) return;
  });
  const Remote remote{
      .url = server.url(), .timeout_seconds = 20, .retries = 2, .backoff_seconds = 0.001};
  const Tensor large = laws::floats({8, 3, 512, 512}).sigmoid();  // more than sockets hold
  check_error([&] { remote(large); }, server.url(), "3 tries, got no answer");
}

TEST_CASE("a broken pipe does not end the process") {
  // cpp-httplib looks whether a connection lives before it writes, so the signal comes only now and
  // then; here it comes for certain.
  const auto before = std::signal(SIGPIPE, SIG_DFL);
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  ::close(ends[0]);
  {
    const cf::detail::WithoutBrokenPipe without_broken_pipe;
    CHECK(::write(ends[1], "", 1) == -1);
    CHECK(errno == EPIPE);
  }
  ::close(ends[1]);
  std::signal(SIGPIPE, before);
}

TEST_CASE("where nothing listens the scores are missing and the run goes on") {
  const int bound = bound_socket();  // and not listening
  const std::string url = url_of(port_of(bound));
  const Remote remote{.url = url, .retries = 1, .backoff_seconds = 0.001};
  check_error([&] { remote(shades(2)); }, url, "2 tries, got no answer");
  const auto bag = cf::rewards(
      "far"_r = remote, "near"_r = [](const Tensor& x) { return x.flatten(1).mean(1); });
  const cf::ScoreSheet sheet = bag.score(shades(2), Captions{"a", "b"});
  CHECK(all_missing(sheet.scores[0]));
  CHECK(sheet.scores[1].isfinite().all().item<bool>());
  REQUIRE(sheet.failures.size() == 1);
  CHECK_THAT(sheet.failures[0], Catch::Matchers::StartsWith("far: " + url));
  ::close(bound);
}

TEST_CASE("several threads ask at once") {
  Server server(mean_of_pixels);
  const Remote remote = remote_of(server, 2);
  std::vector<std::future<Tensor>> answers;
  for (std::int64_t i = 1; i <= 4; ++i) {
    answers.push_back(
        std::async(std::launch::async, [&remote, i] { return remote(shades(i)).scores; }));
  }
  for (std::int64_t i = 1; i <= 4; ++i) {
    CHECK(at::allclose(answers[size_t(i - 1)].get(), at::arange(i) / 255.0F));
  }
}

TEST_CASE("a remote reward refuses what it cannot ask") {
  const auto with = [](const Remote& remote) { return [=] { remote(shades(2)); }; };
  for (const char* url :
       {"", "score", "127.0.0.1:80", "ftp://host/score", "http://", "http:///x"}) {
    INFO(url);
    check_error(with({.url = url}), "url", "an address such as");
    check_error([&] { Remote{.url = url}.check(); }, "url", "an address such as");
  }
  const std::string url = "http://127.0.0.1:9";
  check_error(with({.url = url, .batch = 0}), "batch", "at least 1");
  check_error(with({.url = url, .requests_in_flight = 0}), "requests_in_flight", "at least 1");
  check_error(with({.url = url, .timeout_seconds = 0}), "timeout_seconds", "above 0");
  check_error(with({.url = url, .timeout_seconds = INFINITY}), "timeout_seconds", "above 0");
  check_error(with({.url = url, .retries = -1}), "retries", "at least 0");
  check_error(with({.url = url, .backoff_seconds = -1}), "backoff_seconds", "at least 0");
  const Remote remote{.url = url};
  check_error([&] { remote(at::zeros({3, 4, 4})); }, "images", "[B, 3, H, W]");
  check_error([&] { remote(shades(2), {"one"}); }, "captions", "one an image, 2");
}
