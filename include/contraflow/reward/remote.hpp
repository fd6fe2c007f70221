#pragma once

/// @file
/// A reward that is asked over HTTP.

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/io/base64.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/io/png.hpp>
#include <contraflow/reward/http.hpp>
#include <contraflow/reward/image_batch.hpp>
#include <contraflow/reward/records.hpp>

namespace contraflow {

namespace detail {

// The scores of {"scores": [number, null or "abstain", ...]}; null is NaN.
inline PartialScores scores_in(const std::string& url, const std::string& body,
                               std::int64_t count) {
  const nlohmann::json answer = parse_json(url, body);
  const auto found = answer.find("scores");
  if (!answer.is_object() || found == answer.end() || !found->is_array()) {
    throw Error(url, "an object with a list \"scores\"", answer.type_name());
  }
  if (std::int64_t(found->size()) != count) {
    throw Error(url, shown(count) + " scores", shown(found->size()));
  }
  PartialScores result = missing_scores(count);
  for (std::int64_t i = 0; i < count; ++i) {
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

// The request for images [B, 3, H, W], the first of which has entry `first` of the lists; bytes of
// texts that are not UTF-8 are replaced.
inline Question question_about(const Tensor& bytes, const RequestLists& lists, std::int64_t first) {
  constexpr std::size_t frame = 1 << 16, a_score = 64;
  nlohmann::json request{{"images", nlohmann::json::array()}};
  for (const Tensor& image : bytes.unbind()) {
    request["images"].push_back(encode_base64(encode_png(image)));
  }
  for (const auto& [name, list] : lists) {
    request[name] = Records(list.begin() + first, list.begin() + first + bytes.size(0));
  }
  return {request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
          frame + a_score * std::size_t(bytes.size(0))};
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
/// on; an exception is thrown only where no request had an answer. In whatever order answers come,
/// scores are in that of the samples.
struct Remote {
  std::string url;          ///< such as `http://127.0.0.1:8000/score`
  std::int64_t batch = 32;  ///< images a request, at least 1
  /// Requests that are asked at a time, each over a connection of its own; at least 1. More for a
  /// server of several judges, or one that gathers requests itself.
  std::int64_t requests_in_flight = 1;
  double timeout_seconds = 60;  ///< for a try, from connecting to the end of its answer; above 0
  std::int64_t retries = 3;     ///< tries after the first, at least 0
  /// Wait before the first retry, doubled before each further one; at least 0.
  double backoff_seconds = 0.5;
  /// Told of every request that is given up, when all are over, in the order of the samples and in
  /// the thread that wants scores; may be empty.
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
    detail::expects_records(records, images);
    return scores(images, detail::lists_of(records));
  }

  /// Nothing, where a call would ask the server: for a program that wants to know before a run.
  /// @throws Error for an address that is none, or an option out of range
  void check() const { detail::check(service()); }

 private:
  detail::Service service() const {
    return {url,       {}, batch, requests_in_flight, timeout_seconds, retries, backoff_seconds,
            on_failure};
  }

  PartialScores scores(const Tensor& images, const detail::RequestLists& lists) const {
    const detail::Service service = this->service();
    detail::check(service);
    const Tensor bytes = detail::pixel_rows(images);
    PartialScores result = detail::asked_for(
        service, images.size(0),
        [&](std::int64_t first, std::int64_t size) {
          return detail::question_about(bytes.narrow(0, first, size), lists, first);
        },
        [&](const std::string& answer, std::int64_t size) {
          return detail::scores_in(url, answer, size);
        });
    // A judge that was sent something else in the place of a broken image cannot abstain from it.
    result.abstains.logical_and_(detail::whole_images(images));
    result.scores = detail::without_broken(result.scores, images);
    return result;
  }
};

}  // namespace contraflow
