#pragma once

// Servers on this machine, for the tests of what asks one.

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <httplib.h>
#include <netinet/in.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <unistd.h>

#include <contraflow/io/base64.hpp>
#include <contraflow/io/image.hpp>

namespace local {

inline std::string url_of(int port) {
  return "http://127.0.0.1:" + std::to_string(port) + "/score";
}

// A server in this process on a free port; it remembers what it was asked.
class Server {
 public:
  using Answer = std::function<void(const nlohmann::json& request, int number, httplib::Response&)>;

  explicit Server(Answer answer, const std::string& path = "/score") : answer_(std::move(answer)) {
    server_.Post(path, [this](const httplib::Request& request, httplib::Response& response) {
      const auto parsed = nlohmann::json::parse(request.body);
      int number = 0;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        requests_.push_back(parsed);
        headers_ = request.headers;
        number = int(requests_.size());
      }
      answer_(parsed, number, response);
    });
    // Connections that are kept open must not keep the server.
    server_.set_keep_alive_timeout(1);
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
  }
  ~Server() {
    stop();
    thread_.join();
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  void stop() { server_.stop(); }
  std::string url() const { return url_of(port_); }
  std::string host() const { return "http://127.0.0.1:" + std::to_string(port_); }
  std::vector<nlohmann::json> requests() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return requests_;
  }
  // Of the last request.
  httplib::Headers headers() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return headers_;
  }

 private:
  Answer answer_;
  httplib::Server server_;
  int port_ = 0;
  std::thread thread_;
  std::mutex mutex_;
  std::vector<nlohmann::json> requests_;
  httplib::Headers headers_;
};

inline void say(httplib::Response& response, const std::string& text, int status = 200) {
  response.status = status;
  response.set_content(text, "application/json");
}

inline contraflow::Tensor image_in(const nlohmann::json& request, std::size_t index) {
  return contraflow::decode_image(
      contraflow::decode_base64(request["images"][index].get<std::string>()));
}

// Images of one shade each: image i has i / 255.
inline contraflow::Tensor shades(std::int64_t count) {
  return (at::arange(count, at::kFloat) / 255).view({count, 1, 1, 1}).expand({count, 3, 4, 6});
}

// A socket on a free port of this machine.
inline int bound_socket() {
  const int handle = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::bind(handle, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  return handle;
}
inline int port_of(int handle) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  REQUIRE(::getsockname(handle, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  return ntohs(address.sin_port);
}

// A server that does with every connection what it is told, below HTTP.
class RawServer {
 public:
  explicit RawServer(std::function<void(int connection)> with)
      : with_(std::move(with)), listener_(bound_socket()), port_(port_of(listener_)) {
    REQUIRE(::listen(listener_, 8) == 0);
    thread_ = std::thread([this] {
      for (int connection; (connection = ::accept(listener_, nullptr, nullptr)) >= 0;) {
        with_(connection);
        ::close(connection);
      }
    });
  }
  ~RawServer() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }
  RawServer(const RawServer&) = delete;
  RawServer& operator=(const RawServer&) = delete;
  std::string url() const { return url_of(port_); }

 private:
  std::function<void(int)> with_;
  int listener_, port_;
  std::thread thread_;
};

}  // namespace local
