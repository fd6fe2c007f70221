#pragma once

/// @file
/// What text encoders give for captions.

#include <cstdint>
#include <string>
#include <vector>

#include <contraflow/io/fingerprint.hpp>
#include <contraflow/observe/report.hpp>
#include <contraflow/pipeline/model_folder.hpp>

namespace contraflow::pipeline {

namespace detail {

template <class Warn>
TokenBatch tokens(const char* encoder, const auto& tokenizer,
                  const std::vector<std::string>& captions, Warn&& warn) {
  TokenBatch batch = tokenizer.encode(captions);
  for (std::size_t i = 0; i < captions.size(); ++i) {
    if (batch.cut[i] == 0) continue;
    warn(Warning{"prompt/cut", double(batch.cut[i]),
                 std::string(encoder) + " does not see the last " + std::to_string(batch.cut[i]) +
                     " tokens of the prompt \"" + captions[i] + "\""});
  }
  return batch;
}

}  // namespace detail

/// What CLIP gives for captions, some of them at a time; the encoder is gone when they are encoded.
/// @param name what warnings call it
/// @param tokenizer folder of its tokenizer, within @p folder
/// @param encoder folder of its weights, within @p folder
/// @param folder of the model
/// @param captions at least one
/// @param placement of the encoder
/// @param at_once captions that pass it together, at least 1
/// @param warn told of each caption that is longer than its window, and cut
/// @return penultimate and pooled states, one row a caption
template <class Warn>
ClipTextOutput clip_states(const char* name, const char* tokenizer, const char* encoder,
                           const ModelFolder& folder, const std::vector<std::string>& captions,
                           const Placement& placement, std::int64_t at_once, Warn&& warn) {
  const Tensor ids = detail::tokens(name, folder.clip_tokenizer(tokenizer), captions, warn)
                         .ids.to(placement.device);
  const auto network = folder.clip(encoder, placement);
  ClipTextOutput result;
  std::vector<Tensor> pooled;
  result.penultimate = in_parts(ids, at_once, [&](const Tensor& part) {
    const ClipTextOutput out = network->forward(part);
    pooled.push_back(out.pooled);
    return out.penultimate;
  });
  result.pooled = at::cat(pooled);
  return result;
}

/// What T5 gives for captions, some of them at a time; the encoder is gone when they are encoded.
/// @param tokenizer folder of its tokenizer, within @p folder
/// @param encoder folder of its weights, within @p folder
/// @param length window of T5, in tokens
/// @param folder of the model
/// @param captions at least one
/// @param placement of the encoder
/// @param at_once captions that pass it together, at least 1
/// @param warn told of each caption that is longer than the window, and cut
/// @return [captions, length, D]
template <class Warn>
Tensor t5_states(const char* tokenizer, const char* encoder, std::int64_t length,
                 const ModelFolder& folder, const std::vector<std::string>& captions,
                 const Placement& placement, std::int64_t at_once, Warn&& warn) {
  const Tensor ids = detail::tokens("T5", folder.t5_tokenizer(tokenizer, length), captions, warn)
                         .ids.to(placement.device);
  const auto network = folder.t5(encoder, placement);
  return in_parts(ids, at_once, [&](const Tensor& part) { return network->forward(part); });
}

/// What decides the states of an encoder beside the captions, as a part of a PromptStore's source:
/// its files and its tokenizer's, by fingerprint(), and its precision.
/// @param folder of the model
/// @param tokenizer folder of its tokenizer, within @p folder
/// @param encoder folder of its weights, within @p folder
/// @param placement of the encoder
/// @throws Error naming a component that is missing or cannot be read
inline std::string encoder_source(const ModelFolder& folder, const std::string& tokenizer,
                                  const std::string& encoder, const Placement& placement) {
  return "; " + tokenizer + " " + fingerprint(folder.folder_of(tokenizer)) + ", " + encoder + " " +
         fingerprint(folder.folder_of(encoder)) + " in " +
         (placement.dtype ? c10::toString(*placement.dtype) : "its own precision");
}

}  // namespace contraflow::pipeline
