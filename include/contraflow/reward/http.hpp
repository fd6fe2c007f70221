#pragma once

/// @file
/// How rewards ask a server: several requests at once, each with its own time and retries.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <functional>
#include <future>
#include <limits>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include <httplib.h>
#include <pthread.h>

#include <contraflow/core/tensor.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/reward/concept.hpp>

namespace contraflow::detail {

// An address such as "http://host:8000/score" in two.
struct Address {
  std::string server;  // "http://host:8000"
  std::string path;    // "/score"
};

// cpp-httplib throws its own for what it was built without, such as https.
inline httplib::Client client_of(const std::string& url, const std::string& server) {
  try {
    httplib::Client client(server);
    if (client.is_valid()) return client;
  } catch (const std::invalid_argument&) {
  }
  throw Error("url", "a server that this build of cpp-httplib can speak to", url);
}

inline Address address_of(const std::string& url) {
  const std::size_t scheme_end = url.find("://");
  const std::string scheme = url.substr(0, std::min(scheme_end, url.size()));
  const std::size_t begin = scheme_end + 3;
  const bool has_host = scheme_end != std::string::npos && begin < url.size() && url[begin] != '/';
  if ((scheme != "http" && scheme != "https") || !has_host) {
    throw Error("url", "an address such as http://127.0.0.1:8000/score", url);
  }
  const std::size_t slash = url.find('/', begin);
  if (slash == std::string::npos) return {url, "/"};
  return {url.substr(0, slash), url.substr(slash)};
}

// Keeps a server that hangs up from ending this process by SIGPIPE, which cpp-httplib's client lets
// through: the signal is blocked in this thread and taken back if it came.
class WithoutBrokenPipe {
 public:
  WithoutBrokenPipe() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  WithoutBrokenPipe(const WithoutBrokenPipe&) = delete;
  WithoutBrokenPipe& operator=(const WithoutBrokenPipe&) = delete;
  ~WithoutBrokenPipe() {
    const timespec at_once{};
    if (!was_pending_) sigtimedwait(&pipe_, nullptr, &at_once);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t pipe_{}, before_{};
  bool was_pending_ = false;
};

// Hangs up on a request that is not over in time. The client's own limits are for each read and
// write, and a server that sends or takes drop by drop keeps to them.
class HangUp {
 public:
  HangUp(httplib::Client& client, std::chrono::steady_clock::time_point deadline)
      : thread_([&client, deadline](const std::stop_token& is_over) {
          std::mutex mutex;
          std::unique_lock lock(mutex);
          std::condition_variable_any end;
          const auto ended = [&] { return is_over.stop_requested(); };
          auto next = deadline;
          // Again and again: a client that is about to connect has nothing to hang up yet.
          while (!end.wait_until(lock, is_over, next, ended)) {
            client.stop();
            next = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
          }
        }) {}

 private:
  std::jthread thread_;
};

// Whom a reward asks, and how.
struct Service {
  std::string url;
  httplib::Headers headers;
  std::int64_t batch, requests_in_flight;
  double timeout_seconds;
  std::int64_t retries;
  double backoff_seconds;
  std::function<void(const Error&)> on_failure;
};

inline void check(const Service& service) {
  expects_at_least_one(service.batch, "batch");
  expects_at_least_one(service.requests_in_flight, "requests_in_flight");
  const double timeout = service.timeout_seconds, backoff = service.backoff_seconds;
  expects(std::isfinite(timeout) && timeout > 0, "timeout_seconds", "above 0", timeout);
  expects(service.retries >= 0, "retries", "at least 0", service.retries);
  expects(std::isfinite(backoff) && backoff >= 0, "backoff_seconds", "at least 0", backoff);
  client_of(service.url, address_of(service.url).server);
}

// A request, and how long its answer may be.
struct Question {
  std::string body;
  std::size_t longest_answer = 0;
};

// What became of one try.
struct Reply {
  std::string body;
  std::string fault;      // empty: there is an answer
  bool may_pass = false;  // whether the fault may be gone at the next try
};

// Asks a server one question after the other.
class Asker {
 public:
  explicit Asker(const Service& service)
      : service_(service),
        address_(address_of(service.url)),
        timeout_(std::chrono::duration_cast<std::chrono::microseconds>(
            std::chrono::duration<double>(service.timeout_seconds))),
        client_(client_of(service.url, address_.server)) {
    client_.set_connection_timeout(timeout_);
    client_.set_read_timeout(timeout_);
    client_.set_write_timeout(timeout_);
    client_.set_keep_alive(true);
  }

  // The body of the answer to a question, asked again where that may help.
  std::string answer_to(const Question& question) {
    double wait = service_.backoff_seconds;
    for (std::int64_t attempt = 0;; ++attempt, wait *= 2) {
      Reply reply = tried(question);
      if (reply.fault.empty()) return std::move(reply.body);
      if (!reply.may_pass || attempt == service_.retries) {
        throw Error(service_.url, "scores, in " + shown(attempt + 1) + " tries", reply.fault);
      }
      std::this_thread::sleep_for(std::chrono::duration<double>(wait));
    }
  }

 private:
  Reply tried(const Question& question) {
    Reply reply;
    httplib::Request request;
    request.method = "POST";
    request.path = address_.path;
    request.headers = service_.headers;
    request.headers.emplace("Content-Type", "application/json");
    request.body = question.body;
    request.content_receiver = [&](const char* data, std::size_t size, auto...) {
      reply.body.append(data, size);
      return reply.body.size() <= question.longest_answer;
    };
    const WithoutBrokenPipe without_broken_pipe;
    const httplib::Result result = [&] {
      const HangUp in_time(client_, std::chrono::steady_clock::now() + timeout_);
      return client_.send(request);
    }();
    if (reply.body.size() > question.longest_answer) {
      reply.fault = "a longer answer than scores can be";
    } else if (!result) {
      reply.fault = "no answer (" + httplib::to_string(result.error()) + ")";
      reply.may_pass = true;
    } else if (result->status != 200) {
      reply.fault = fault_of(result->status, reply.body);
      reply.may_pass = result->status >= 500 || result->status == 429;
    }
    return reply;
  }

  // What a server says to a key that it does not take may hold the key.
  static std::string fault_of(int status, const std::string& body) {
    const bool is_about_keys = status == 401 || status == 403;
    const std::string text = "status " + std::to_string(status);
    return body.empty() || is_about_keys ? text : text + ", " + excerpt(body);
  }

  const Service& service_;
  Address address_;
  std::chrono::microseconds timeout_;
  httplib::Client client_;
};

// Calls what start() gives with 0 ... count - 1, each once, in so many threads that start one each.
// All calls are over when this returns or throws.
template <class Start>
void in_flight(std::int64_t count, std::int64_t threads, const Start& start) {
  std::atomic<std::int64_t> next = 0;
  const auto work = [&] {
    auto one = start();
    for (std::int64_t i = next++; i < count; i = next++) one(i);
  };
  std::vector<std::future<void>> others;
  for (std::int64_t i = 1; i < std::min(threads, count); ++i) {
    others.push_back(std::async(std::launch::async, work));
  }
  work();
  for (std::future<void>& other : others) other.get();
}

// What became of a request in the end.
struct Outcome {
  std::string answer;
  std::optional<Error> failure;
};

// The outcomes of requests 0 ... count - 1, whose questions are made where they are asked.
template <class QuestionOf>
std::vector<Outcome> outcomes(const Service& service, std::int64_t count,
                              const QuestionOf& question) {
  std::vector<Outcome> all(static_cast<std::size_t>(count));
  in_flight(count, service.requests_in_flight, [&] {
    return [&, asker = Asker(service)](std::int64_t i) mutable {
      Outcome& own = all[std::size_t(i)];
      try {
        own.answer = asker.answer_to(question(i));
      } catch (const Error& failure) {
        own.failure = failure;
      }
    };
  });
  return all;
}

// Scores of samples of which nothing is known yet: NaN, from none of which anybody abstains.
inline PartialScores missing_scores(std::int64_t count) {
  return {at::full({count}, std::numeric_limits<double>::quiet_NaN(), at::kFloat),
          at::zeros({count}, at::kBool)};
}

// Scores [count] of samples, asked for a batch at a time: question(first, size) asks, in any thread
// and order; scores(answer, size) reads, in this thread and in the order of the samples. Those of a
// request that failed are NaN; throws where all failed.
template <class QuestionOf, class ScoresIn>
PartialScores asked_for(const Service& service, std::int64_t count, const QuestionOf& question,
                        const ScoresIn& scores) {
  const auto first = [&](std::int64_t i) { return i * service.batch; };
  const auto size = [&](std::int64_t i) { return std::min(service.batch, count - first(i)); };
  std::vector<Outcome> all = outcomes(service, (count + service.batch - 1) / service.batch,
                                      [&](std::int64_t i) { return question(first(i), size(i)); });
  PartialScores result = missing_scores(count);
  bool any_answer = false;
  for (std::int64_t i = 0; i < std::int64_t(all.size()); ++i) {
    auto& [answer, failure] = all[std::size_t(i)];
    try {
      if (failure) throw Error(*failure);
      const PartialScores part = scores(answer, size(i));
      result.scores.narrow(0, first(i), size(i)).copy_(part.scores);
      result.abstains.narrow(0, first(i), size(i)).copy_(part.abstains);
      any_answer = true;
    } catch (const Error& unread) {
      failure = unread;
      if (service.on_failure) service.on_failure(unread);
    }
  }
  if (!any_answer) throw Error(*all.back().failure);
  return result;
}

}  // namespace contraflow::detail
