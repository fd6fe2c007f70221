#pragma once

/// @file
/// Prompts that are JSON records: a caption, and what else a judge wants to know.

#include <concepts>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/reward/image_batch.hpp>

namespace contraflow {

/// What is known of prompts, one JSON value each, such as a line of GenEval's metadata:
/// `{"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "two cats"}`. They are
/// the reference of `PromptRows(condition, records)`.
using Records = std::vector<nlohmann::json>;

namespace detail {
/// The caption of a record, or nothing.
inline const std::string* caption_in(const nlohmann::json& record, const std::string& key) {
  if (!record.is_object()) return nullptr;
  const auto found = record.find(key);
  return found == record.end() ? nullptr : found->get_ptr<const std::string*>();
}
}  // namespace detail

/// The captions of records: for the encoders of a model, and for rewards that read captions alone.
/// @param records objects
/// @param key under which each has its caption
/// @throws Error if a record has none
inline Captions captions_of(const Records& records, const std::string& key = "prompt") {
  Captions captions;
  captions.reserve(records.size());
  for (const nlohmann::json& record : records) {
    const std::string* caption = detail::caption_in(record, key);
    if (caption == nullptr) {
      throw Error("records", "objects with a text \"" + key + "\"",
                  record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    }
    captions.push_back(*caption);
  }
  return captions;
}

/// A reward on images and captions, for prompts that are JSON records: `OnCaptions(clip_score)`
/// beside a judge that is told all of a record.
/// @tparam R a Reward under Captions
template <class R>
class OnCaptions {
 public:
  static_assert(std::invocable<const R&, const Tensor&, const Captions&>,
                "contraflow: OnCaptions takes a Reward that is callable as `reward(images, "
                "captions)`");

  /// @param reward is told the captions
  /// @param key under which a record has its caption
  explicit OnCaptions(R reward, std::string key = "prompt")
      : reward_(std::move(reward)), key_(std::move(key)) {}

  /// What the reward gives.
  /// @throws Error if a record has no caption, and what the reward throws
  auto operator()(const Tensor& images, const Records& records) const {
    return reward_(images, captions_of(records, key_));
  }

 private:
  R reward_;
  std::string key_;
};

}  // namespace contraflow
