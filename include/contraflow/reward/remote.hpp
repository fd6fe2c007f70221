#pragma once

/// @file
/// A reward that is asked over HTTP.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <concepts>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <httplib.h>
#include <nlohmann/json.hpp>
#include <pthread.h>

#include <contraflow/io/base64.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/io/png.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/reward/concept.hpp>
#include <contraflow/reward/image_batch.hpp>
#include <contraflow/reward/records.hpp>

namespace contraflow {

namespace detail {

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

// What became of one request.
struct Reply {
  std::string body;
  std::string fault;      // empty: there is an answer
  bool may_pass = false;  // whether the fault may be gone at the next try
};

// Sends a request and reads its answer, of limited length, by a deadline.
inline Reply posted(httplib::Client& client, const std::string& path, const std::string& body,
                    std::chrono::duration<double> timeout, std::size_t most) {
  using SteadyClock = std::chrono::steady_clock;
  const auto deadline =
      SteadyClock::now() + std::chrono::duration_cast<SteadyClock::duration>(timeout);
  Reply reply;
  httplib::Request request;
  request.method = "POST";
  request.path = path;
  request.body = body;
  request.headers.emplace("Content-Type", "application/json");
  // The client's own limits are for each read: a server that answers drop by drop keeps to them.
  request.content_receiver = [&](const char* data, std::size_t size, std::uint64_t, std::uint64_t) {
    reply.body.append(data, size);
    return reply.body.size() <= most && SteadyClock::now() <= deadline;
  };
  const WithoutBrokenPipe without_broken_pipe;
  const httplib::Result result = client.send(request);
  if (reply.body.size() > most) {
    reply.fault = "a longer answer than scores can be";
  } else if (!result) {
    reply.fault = "no answer (" + httplib::to_string(result.error()) + ")";
    reply.may_pass = true;
  } else if (result->status != 200) {
    reply.fault = "status " + std::to_string(result->status);
    reply.may_pass = result->status >= 500 || result->status == 429;
  }
  return reply;
}

// The scores of {"scores": [number, null or "abstain", ...]}; null is NaN.
inline PartialScores scores_in(const std::string& url, const std::string& body, std::size_t count) {
  const nlohmann::json answer = parse_json(url, body);
  const auto found = answer.find("scores");
  if (!answer.is_object() || found == answer.end() || !found->is_array()) {
    throw Error(url, "an object with a list \"scores\"", answer.type_name());
  }
  if (found->size() != count) {
    throw Error(url, shown(count) + " scores", shown(found->size()));
  }
  const auto size = static_cast<std::int64_t>(count);
  PartialScores result{at::full({size}, std::numeric_limits<double>::quiet_NaN(), at::kFloat),
                       at::zeros({size}, at::kBool)};
  for (std::int64_t i = 0; i < size; ++i) {
    const nlohmann::json& score = (*found)[static_cast<std::size_t>(i)];
    if (score.is_number()) {
      result.scores[i] = score.get<float>();
    } else if (score == "abstain") {
      result.abstains[i] = true;
    } else if (!score.is_null()) {
      throw Error(url, "scores that are numbers, null or \"abstain\"", score.type_name());
    }
  }
  return result;
}

// What a request says of its images beside them: lists of one entry an image, by name.
using RequestLists = std::map<std::string, Records>;

// The captions of records, where all of them have one: a judge need not know records.
inline RequestLists lists_of(const Records& records) {
  RequestLists lists{{"metadata", records}};
  const bool all_captioned = std::all_of(records.begin(), records.end(), [](const auto& record) {
    return caption_in(record, "prompt") != nullptr;
  });
  if (!all_captioned) return lists;
  const Captions captions = captions_of(records);
  lists["captions"] = Records(captions.begin(), captions.end());
  return lists;
}

// The request for some images, from number `first` on; bytes of texts that are not UTF-8 are
// replaced.
inline std::string request_for(const Tensor& bytes, const RequestLists& lists, std::int64_t first) {
  nlohmann::json request{{"images", nlohmann::json::array()}};
  for (const Tensor& image : bytes.unbind()) {
    request["images"].push_back(encode_base64(encode_png(image)));
  }
  for (const auto& [name, list] : lists) {
    request[name] = Records(list.begin() + first, list.begin() + first + bytes.size(0));
  }
  return request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace detail

/// A reward that is asked over HTTP: a detector, a reader of text, a vision-language judge in a
/// process or on a machine of its own.
///
/// A request is `POST` of `{"images": ["<PNG in Base64>", ...], "captions": ["...", ...],
/// "metadata": [{...}, ...]}`, without captions where there are none, and with metadata where the
/// reference of the prompts are JSON records; its answer, with status 200, is `{"scores": [0.7,
/// null, "abstain", ...]}`, in their order, null for an image that cannot be scored, "abstain" for
/// one to which the judge does not apply (see PartialScores). No connection, no answer in time, and
/// status 429 or 5xx are tried again; any other status and any other answer are not. The scores of
/// a request that is given up are NaN, so that its samples are masked and the others are trained
/// on; an exception is thrown only where no request had an answer.
struct Remote {
  std::string url;              ///< such as `http://127.0.0.1:8000/score`
  std::int64_t batch = 32;      ///< images a request, at least 1
  double timeout_seconds = 60;  ///< for connecting, and again for the answer; above 0
  std::int64_t retries = 3;     ///< tries after the first, at least 0
  /// Wait before the first retry, doubled before each further one; at least 0.
  double backoff_seconds = 0.5;
  /// Told of every request that is given up; may be empty.
  std::function<void(const Error&)> on_failure = {};

  /// Scores of images alone.
  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 and bool [B], on the CPU
  /// @throws Error for anything else, an option out of range, or where no request had an answer
  PartialScores operator()(const Tensor& images) const {
    detail::expects_images(images);
    return scores(images, {});
  }

  /// Scores of images with their captions.
  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 and bool [B], on the CPU
  /// @param images any size
  /// @param captions one an image
  /// @throws Error for anything else, an option out of range, or where no request had an answer
  PartialScores operator()(const Tensor& images, const Captions& captions) const {
    detail::expects_images(images);
    detail::expects_captions(captions, images);
    return scores(images, {{"captions", Records(captions.begin(), captions.end())}});
  }

  /// Scores of images with all that is known of their prompts: the records go out as `metadata`,
  /// and their `prompt` as captions, where all have one.
  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 and bool [B], on the CPU
  /// @param images any size
  /// @param records one an image
  /// @throws Error for anything else, an option out of range, or where no request had an answer
  template <std::same_as<Records> List>  // so that {"a", "b"} are captions
  PartialScores operator()(const Tensor& images, const List& records) const {
    detail::expects_images(images);
    if (std::int64_t(records.size()) != images.size(0)) {
      throw Error("records", "one an image, " + shown(images.size(0)), shown(records.size()));
    }
    return scores(images, detail::lists_of(records));
  }

 private:
  PartialScores scores(const Tensor& images, const detail::RequestLists& lists) const {
    check();
    const detail::Address address = detail::address_of(url);
    httplib::Client client = detail::client_of(url, address.server);
    prepare(client);
    const Tensor bytes = detail::pixel_bytes(images);
    PartialScores result{
        at::full({images.size(0)}, std::numeric_limits<double>::quiet_NaN(), at::kFloat),
        at::zeros({images.size(0)}, at::kBool)};
    std::optional<Error> failure;
    bool any_answer = false;
    for (std::int64_t first = 0; first < bytes.size(0); first += batch) {
      const Tensor part = bytes.slice(0, first, std::min(first + batch, bytes.size(0)));
      try {
        const std::string body = detail::request_for(part, lists, first);
        const auto answer = asked(client, address.path, body, std::size_t(part.size(0)));
        result.scores.narrow(0, first, part.size(0)).copy_(answer.scores);
        result.abstains.narrow(0, first, part.size(0)).copy_(answer.abstains);
        any_answer = true;
      } catch (const Error& error) {
        failure = error;
        if (on_failure) on_failure(error);
      }
    }
    if (!any_answer) throw Error(*failure);
    // A judge that was sent something else in the place of a broken image cannot abstain from it.
    result.abstains.logical_and_(detail::whole_images(images));
    result.scores = detail::without_broken(result.scores, images);
    return result;
  }

  void check() const {
    expects(batch >= 1, "batch", "at least 1", batch);
    expects(std::isfinite(timeout_seconds) && timeout_seconds > 0, "timeout_seconds", "above 0",
            timeout_seconds);
    expects(retries >= 0, "retries", "at least 0", retries);
    expects(std::isfinite(backoff_seconds) && backoff_seconds >= 0, "backoff_seconds", "at least 0",
            backoff_seconds);
  }

  void prepare(httplib::Client& client) const {
    const auto limit = std::chrono::duration_cast<std::chrono::microseconds>(timeout());
    client.set_connection_timeout(limit);
    client.set_read_timeout(limit);
    client.set_write_timeout(limit);
    client.set_keep_alive(true);
  }

  std::chrono::duration<double> timeout() const {
    return std::chrono::duration<double>(timeout_seconds);
  }

  // One request with its retries.
  PartialScores asked(httplib::Client& client, const std::string& path, const std::string& body,
                      std::size_t count) const {
    constexpr std::size_t frame = 1 << 16, a_score = 64;
    double wait = backoff_seconds;
    for (std::int64_t attempt = 0;; ++attempt, wait *= 2) {
      const detail::Reply reply =
          detail::posted(client, path, body, timeout(), frame + a_score * count);
      if (reply.fault.empty()) return detail::scores_in(url, reply.body, count);
      if (!reply.may_pass || attempt == retries) {
        throw Error(url, "scores, in " + shown(attempt + 1) + " tries", reply.fault);
      }
      std::this_thread::sleep_for(std::chrono::duration<double>(wait));
    }
  }
};

}  // namespace contraflow
