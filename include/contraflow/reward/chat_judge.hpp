#pragma once

/// @file
/// A vision-language model as a reward, behind an endpoint like OpenAI's.

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iterator>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/io/base64.hpp>
#include <contraflow/io/json.hpp>
#include <contraflow/io/png.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/reward/http.hpp>
#include <contraflow/reward/image_batch.hpp>
#include <contraflow/reward/records.hpp>

namespace contraflow {

namespace detail {

inline std::string text_of(const nlohmann::json& value) {
  if (const auto* text = value.get_ptr<const std::string*>()) return *text;
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The field of a record that stands for {name} in a question.
inline std::string field_of(const nlohmann::json& record, const std::string& name) {
  const auto found = record.find(name);
  if (found == record.end() || found->is_null()) {
    throw Error("question", "prompts that all have what stands for {" + name + "}",
                text_of(record));
  }
  return text_of(*found);
}

// A question with the fields of a record for the names in braces.
inline std::string filled(const std::string& question, const nlohmann::json& record) {
  std::string result;
  for (std::size_t i = 0; i < question.size(); ++i) {
    const char c = question[i];
    const bool is_brace = c == '{' || c == '}';
    const bool is_doubled = is_brace && question.substr(i + 1, 1) == std::string(1, c);
    if (!is_brace || is_doubled) {
      result += c;
      i += is_doubled ? 1 : 0;
      continue;
    }
    const std::size_t end = question.find('}', i);
    if (c == '}' || end == std::string::npos) {
      throw Error("question", "braces around names; {{ or }} is a brace itself",
                  excerpt(question.substr(i)));
    }
    result += field_of(record, question.substr(i + 1, end - i - 1));
    i = end;
  }
  return result;
}

// What the first group of a pattern found last, or nothing.
inline std::optional<std::string> last_found(const std::string& text, const std::regex& pattern) {
  std::optional<std::string> found;
  try {
    const std::sregex_iterator end;
    for (std::sregex_iterator match(text.begin(), text.end(), pattern); match != end; ++match) {
      found = (*match)[1].str();
    }
  } catch (const std::regex_error&) {  // more work than the library does
    return std::nullopt;
  }
  return found;
}

// What stands for a score in an answer, without a pattern of the user's. Numbers of repetitions are
// bounded, since each takes a piece of the stack.
inline std::optional<std::string> score_in(const std::string& answer) {
  // Not a piece of something longer such as "7-8" or "7,5".
  static const std::string number =
      R"(([-+]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:e[-+]?\d{1,3})?)(?![.,-]?\d|[a-z]))";
  static const std::regex alone(R"([\s"'*]{0,9})" + number + R"(\.?[\s"'*]{0,9})",
                                std::regex::icase);
  static const std::regex behind(R"((?:\b|_)score[\s"'*_`]{0,9}[:=][\s"'*_`]{0,9})" + number,
                                 std::regex::icase);
  std::smatch whole;
  if (std::regex_match(answer, whole, alone)) return whole[1].str();
  return last_found(answer, behind);
}

inline std::optional<double> number_in(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  double number = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool is_whole = fault == std::errc() && end == text.data() + text.size();
  return is_whole && std::isfinite(number) ? std::optional(number) : std::nullopt;
}

// The text that a chat model answered with.
inline std::string chat_answer(const std::string& url, const std::string& body) {
  using Pointer = nlohmann::json::json_pointer;
  static const Pointer text("/choices/0/message/content"), reason("/choices/0/finish_reason");
  const nlohmann::json answer = parse_json(url, body);
  if (!answer.contains(text) || !answer.at(text).is_string()) {
    throw Error(url, "a text at choices[0].message.content", excerpt(body));
  }
  // Of "score: 10" there may be no more than "score: 1".
  if (answer.contains(reason) && answer.at(reason) == "length") {
    throw Error(url, "an answer that ends within max_tokens", "one that was cut off");
  }
  return answer.at(text).get<std::string>();
}

// The score in an answer, from [least, greatest] to [0, 1].
inline float score_of(const std::string& url, std::string answer,
                      const std::optional<std::regex>& pattern, double least, double greatest) {
  constexpr std::size_t most = 4096;  // regular expressions take stack by the character
  if (answer.size() > most) answer.erase(0, answer.size() - most);
  const auto found = pattern ? last_found(answer, *pattern) : score_in(answer);
  const auto number = found ? number_in(*found) : std::nullopt;
  if (!number || *number < least || *number > greatest) {
    const std::string range = shown(least) + " to " + shown(greatest);
    throw Error(url, "an answer with a score from " + range, excerpt(answer));
  }
  return float((*number - least) / (greatest - least));
}

}  // namespace detail

/// A vision-language model that is asked about each image: behind vLLM, SGLang, llama.cpp or any
/// other endpoint like OpenAI's chat completions.
///
/// A request is `POST` of the model's name, temperature 0 and one message: the image as PNG, and
/// the question with the fields of the prompt's record in it. The score is found in
/// `choices[0].message.content`, and goes from [least, greatest] to [0, 1]. An answer without a
/// score, with one out of range or that was cut off is not guessed at: its sample gets NaN and is
/// masked, as are those of requests that are given up (see Remote).
struct ChatJudge {
  /// Where completions are; without a path at `/v1/chat/completions`. https where cpp-httplib was
  /// built with OpenSSL.
  std::string url;
  std::string model = {};  ///< its name; empty: what the server has, which not all allow
  /// A template: `{prompt}` is the caption, or `{name}` the entry of that name in the prompt's
  /// record, JSON where it is no text; `{{` and `}}` are braces.
  std::string question =
      "This image was made for a prompt: {prompt}\nHow well does it show all that the prompt asks "
      "for? Answer with one line \"score: N\", N a number from 0 (nothing) to 10 (all).";
  /// A regular expression of ECMAScript whose first group is the score, where it is found last in
  /// the last 4096 bytes of an answer. Empty: the number behind the last "score:", or a number that
  /// is all of the answer.
  std::string score_pattern = {};
  double least = 0;               ///< score that counts as 0, finite
  double greatest = 10;           ///< score that counts as 1, finite and above `least`
  std::int64_t max_tokens = 256;  ///< longest answer, at least 1
  /// Environment variable that holds the key that is sent as a bearer's token; empty: no key.
  std::string api_key_variable = {};
  std::int64_t requests_in_flight = 8;  ///< images that are asked about at a time, at least 1
  double timeout_seconds = 60;  ///< for a try, from connecting to the end of its answer; above 0
  std::int64_t retries = 3;     ///< tries after the first, at least 0
  /// Wait before the first retry, doubled before each further one; at least 0.
  double backoff_seconds = 0.5;
  /// Told of every image without a score, as Remote does; may be empty.
  std::function<void(const Error&)> on_failure = {};

  /// Scores of images alone, by a question without names in braces.
  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B] in [0, 1], on the CPU
  /// @throws Error for anything else, an option out of range, or where no image got a score
  Tensor operator()(const Tensor& images) const {
    detail::expects_images(images);
    return scores(images, Records(std::size_t(images.size(0)), nlohmann::json::object()));
  }

  /// Scores of images with their captions, which stand for `{prompt}`.
  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B] in [0, 1], on the CPU
  /// @param images any size
  /// @param captions one an image
  /// @throws Error for anything else, an option out of range, or where no image got a score
  Tensor operator()(const Tensor& images, const Captions& captions) const {
    detail::expects_images(images);
    detail::expects_captions(captions, images);
    Records records;
    for (const std::string& caption : captions) records.push_back({{"prompt", caption}});
    return scores(images, records);
  }

  /// Scores of images with the records of their prompts.
  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B] in [0, 1], on the CPU
  /// @param images any size
  /// @param records one an image
  /// @throws Error for anything else, an option out of range, a record without an entry that the
  ///   question names, or where no image got a score
  template <std::same_as<Records> List>  // so that {"a", "b"} are captions
  Tensor operator()(const Tensor& images, const List& records) const {
    detail::expects_images(images);
    detail::expects_records(records, images);
    return scores(images, records);
  }

  /// Nothing, where a call would ask the server: for a program that wants to know before a run.
  /// @throws Error for an address that is none, a key that is missing, or an option out of range
  void check() const {
    detail::check(service());
    expects_at_least_one(max_tokens, "max_tokens");
    expects(std::isfinite(least), "least", "a finite number", least);
    expects(std::isfinite(greatest) && greatest > least, "greatest", "a finite number above least",
            greatest);
  }

 private:
  detail::Service service() const {
    return {address(), headers(),       1,         requests_in_flight, timeout_seconds,
            retries,   backoff_seconds, on_failure};
  }

  Tensor scores(const Tensor& images, const Records& records) const {
    check();
    const detail::Service service = this->service();
    const std::optional<std::regex> pattern = compiled_pattern();
    std::vector<std::string> questions;
    for (const nlohmann::json& record : records) {
      questions.push_back(detail::filled(question, record));
    }
    const Tensor bytes = detail::pixel_rows(images);
    const PartialScores result = detail::asked_for(
        service, images.size(0),
        [&](std::int64_t i, std::int64_t) { return about(bytes[i], questions[std::size_t(i)]); },
        [&](const std::string& answer, std::int64_t) {
          PartialScores score = detail::missing_scores(1);
          score.scores[0] = detail::score_of(service.url, detail::chat_answer(service.url, answer),
                                             pattern, least, greatest);
          return score;
        });
    return detail::without_broken(result.scores, images);
  }

  std::string address() const {
    const detail::Address given = detail::address_of(url);
    return given.path == "/" ? given.server + "/v1/chat/completions" : url;
  }

  httplib::Headers headers() const {
    if (api_key_variable.empty()) return {};
    const char* key = std::getenv(api_key_variable.c_str());
    const std::string_view text = key == nullptr ? "" : key;
    const bool is_token =
        std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < '\x7f'; });
    if (text.empty() || !is_token) {
      // The key itself is shown to nobody.
      throw Error("api_key_variable", "an environment variable with a key, visible ASCII",
                  api_key_variable + (text.empty() ? ", not set" : ", of other characters"));
    }
    return {{"Authorization", "Bearer " + std::string(text)}};
  }

  std::optional<std::regex> compiled_pattern() const {
    if (score_pattern.empty()) return std::nullopt;
    try {
      std::regex pattern(score_pattern);
      if (pattern.mark_count() > 0) return pattern;
    } catch (const std::regex_error&) {
    }
    throw Error("score_pattern", "a regular expression with a group around the score",
                score_pattern);
  }

  detail::Question about(const Tensor& image, const std::string& text) const {
    constexpr std::size_t frame = 1 << 16, a_token = 128;
    const std::string picture = "data:image/png;base64," + encode_base64(encode_png(image));
    const nlohmann::json content{{{"type", "image_url"}, {"image_url", {{"url", picture}}}},
                                 {{"type", "text"}, {"text", text}}};
    nlohmann::json request{
        {"messages", nlohmann::json::array({{{"role", "user"}, {"content", content}}})},
        {"temperature", 0},
        {"max_tokens", max_tokens}};
    if (!model.empty()) request["model"] = model;
    return {request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
            frame + a_token * std::size_t(max_tokens)};
  }
};

/// A ChatJudge with the settings of a JSON object: `url`, and where they are to be other than the
/// defaults `model`, `question`, `score_pattern`, `least`, `greatest`, `max_tokens`,
/// `api_key_variable`, `requests_in_flight`, `timeout_seconds`, `retries` and `backoff_seconds`.
/// @throws Error naming the file, for one that cannot be read, another type, or an unknown name
inline ChatJudge read_chat_judge(const std::filesystem::path& path) {
  static constexpr std::array<std::string_view, 12> names{
      "url",     "model",           "question",           "score_pattern",
      "least",   "greatest",        "max_tokens",         "api_key_variable",
      "retries", "backoff_seconds", "requests_in_flight", "timeout_seconds"};
  const Settings file(path);
  for (const auto& [name, value] : file.json().items()) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      throw Error(path.string(), "settings of a ChatJudge", excerpt(name));
    }
  }
  const ChatJudge fallback;
  return {.url = file.text("url"),
          .model = file.text("model", fallback.model),
          .question = file.text("question", fallback.question),
          .score_pattern = file.text("score_pattern", fallback.score_pattern),
          .least = file.number("least", fallback.least),
          .greatest = file.number("greatest", fallback.greatest),
          .max_tokens = file.integer("max_tokens", fallback.max_tokens),
          .api_key_variable = file.text("api_key_variable", fallback.api_key_variable),
          .requests_in_flight = file.integer("requests_in_flight", fallback.requests_in_flight),
          .timeout_seconds = file.number("timeout_seconds", fallback.timeout_seconds),
          .retries = file.integer("retries", fallback.retries),
          .backoff_seconds = file.number("backoff_seconds", fallback.backoff_seconds)};
}

}  // namespace contraflow
