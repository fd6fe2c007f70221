// A small server that scores images, as an example of one for GenEval, a reader of text or a
// vision-language judge, and a program that asks it.

#include <csignal>
#include <cstddef>
#include <functional>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <httplib.h>
#include <nlohmann/json.hpp>
#include <pthread.h>

#include <contraflow/io/image.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/reward/combination.hpp>
#include <contraflow/reward/image_measures.hpp>
#include <contraflow/reward/jpeg_size.hpp>
#include <contraflow/reward/remote.hpp>

#include "support/options.hpp"

namespace cf = contraflow;
using cf::Tensor;
using nlohmann::json;
using namespace cf::literals;

namespace {

using Score = std::function<Tensor(const Tensor& images)>;

const std::map<std::string, Score> scores_by_name{
    {"brightness", cf::Brightness{}},
    {"colourfulness", cf::Colourfulness{}},
    {"jpeg_compressibility", cf::JpegCompressibility{}},
    {"jpeg_incompressibility", cf::JpegIncompressibility{}},
    {"sharpness", cf::Sharpness{}},
};

//! [answer]
// {"images": ["<PNG in Base64>", ...]} to {"scores": [0.7, null, ...]}.
json answer(const Score& score, const json& request) {
  json scores = json::array();
  for (const std::string& text : request.at("images").get<std::vector<std::string>>()) {
    const Tensor image = cf::decode_image(cf::decode_base64(text));
    scores.push_back(score(image.unsqueeze(0)).item<double>());  // NaN is written as null
  }
  return {{"scores", scores}};
}
//! [answer]

class RewardServer {
 public:
  explicit RewardServer(Score score) : score_(std::move(score)) {
    server_.set_payload_max_length(cf::max_json_size);
    server_.set_keep_alive_timeout(1);
    server_.Post("/score", [this](const httplib::Request& request, httplib::Response& response) {
      reply(request, response);
    });
  }

  // Takes a port, 0 for a free one, and returns it; serve() listens on it.
  int bind(const std::string& host, int port) {
    if (port == 0) return server_.bind_to_any_port(host);
    return server_.bind_to_port(host, port) ? port : -1;
  }
  void serve() { server_.listen_after_bind(); }
  bool is_running() const { return server_.is_running(); }
  void stop() { server_.stop(); }

 private:
  void reply(const httplib::Request& request, httplib::Response& response) const {
    json result;
    try {
      result = answer(score_, cf::parse_json("request", request.body));
    } catch (const std::exception& error) {
      response.status = 400;  // not one that Remote tries again
      result = {{"error", error.what()}};
    }
    response.set_content(result.dump(-1, ' ', false, json::error_handler_t::replace),
                         "application/json");
  }

  Score score_;
  httplib::Server server_;
};

sigset_t signals_to_stop() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

// Serves until SIGINT or SIGTERM.
int serve(RewardServer& server, const std::string& host, int port) {
  const int bound = server.bind(host, port);
  if (bound < 0) {
    std::cerr << "cannot listen on " << host << ':' << port << '\n';
    return 1;
  }
  std::cout << "http://" << host << ':' << bound << "/score" << std::endl;
  std::thread listener([&] { server.serve(); });
  const sigset_t signals = signals_to_stop();
  int number = 0;
  sigwait(&signals, &number);
  server.stop();
  listener.join();
  return 0;
}

// Whether a server refuses what is no request for scores, and says why.
bool refuses_rubbish(const std::string& host, int port) {
  const std::string deep(1 << 20, '[');
  // A PNG whose header speaks of 2^31 - 1 pixels a side.
  const std::string huge = "iVBORw0KGgoAAAANSUhEUn////9/////CAIAAACbq5wx";
  httplib::Client client(host, port);
  for (const std::string& body :
       {std::string(), std::string("rubbish"), std::string("{}"), std::string("[1, 2]"), deep,
        std::string(R"({"images": 7})"), std::string(R"({"images": [7]})"),
        std::string(R"({"images": ["Zg"]})"), std::string(R"({"images": ["Zm9v"]})"),
        R"({"images": [")" + huge + R"("]})", std::string("{\"images\": [\"\xFF\"]}"),
        std::string(R"({"images": [], "images": []})")}) {
    const httplib::Result result = client.Post("/score", body, "application/json");
    if (!result || result->status != 400 || !json::parse(result->body).contains("error")) {
      std::cout << "not refused: " << body.substr(0, 80) << '\n';
      return false;
    }
  }
  return true;
}

// Whether a server does not read more than it wants to.
bool refuses_too_much(const std::string& host, int port) {
  httplib::Client client(host, port);
  const std::string body(cf::max_json_size + 1, ' ');
  const httplib::Result result = client.Post("/score", body, "application/json");
  // It may hang up in the middle.
  return !result || result->status == 413;
}

// Asks a server in this process for what is also computed here, behind what it does not take.
int self_test(RewardServer& server, const Score& score) {
  const std::string host = "127.0.0.1";
  const int port = server.bind(host, 0);
  std::thread listener([&] { server.serve(); });
  while (!server.is_running()) std::this_thread::yield();

  const bool refuses = refuses_rubbish(host, port) && refuses_too_much(host, port);
  const Tensor images = at::rand({5, 3, 32, 32}).mul(255).round().div(255);
  const std::vector<std::string> captions(5, "noise");
  //! [ask]
  const cf::Remote remote{.url = "http://" + host + ":" + std::to_string(port) + "/score",
                          .batch = 2,
                          .requests_in_flight = 2,
                          .timeout_seconds = 30};
  const auto bag = cf::rewards("judge"_r = remote, "local"_r = cf::weighted(score, 0.5));
  const cf::ScoreSheet sheet = bag.score(images, captions);
  //! [ask]
  for (const std::string& failure : sheet.failures) std::cout << failure << '\n';
  std::cout << "asked:    " << sheet.scores[0].view({1, -1}) << '\n'
            << "computed: " << sheet.scores[1].view({1, -1}) << '\n';
  server.stop();
  listener.join();
  const bool agree = at::allclose(sheet.scores[0], sheet.scores[1], 1e-4);
  return refuses && sheet.failures.empty() && agree ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) try {
  std::string host = "127.0.0.1", name = "brightness";
  int port = 8000;
  bool is_test = false;
  CLI::App app("Scores images over HTTP: POST /score, JSON in, JSON out");
  app.add_option("--host", host, "address to listen on")->capture_default_str();
  app.add_option("--port", port, "port to listen on; 0: a free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  app.add_option("--reward", name, "what scores")
      ->check(CLI::IsMember(scores_by_name))
      ->capture_default_str();
  app.add_flag("--self-test", is_test, "serve, ask, compare and end");
  CLI11_PARSE(app, argc, argv);

  // Before there are threads, which inherit it: the signals wait for sigwait.
  const sigset_t signals = signals_to_stop();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const Score& score = scores_by_name.at(name);
  RewardServer server(score);
  return is_test ? self_test(server, score) : serve(server, host, port);
} catch (const std::exception& failure) {
  return support::failed("reward_server", failure);
}
