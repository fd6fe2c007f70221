#pragma once

/// @file
/// Prompts as FLUX.1 sees them.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <contraflow/flux/flux_folder.hpp>
#include <contraflow/network/text_condition.hpp>
#include <contraflow/observe/report.hpp>
#include <contraflow/pipeline/text_states.hpp>

namespace contraflow::flux {

/// How prompts are encoded.
struct PromptOptions {
  /// Window of T5; unset: the longest, see Folder::most_t5_tokens(). 128 in published trainers.
  std::optional<std::int64_t> t5_tokens = {};
  Placement clip = {};       ///< of CLIP
  Placement t5 = {};         ///< of T5
  std::int64_t at_once = 8;  ///< prompts that pass an encoder together, at least 1
};

namespace detail {

inline std::int64_t t5_window(const Folder& folder, const PromptOptions& options) {
  const std::int64_t most = folder.most_t5_tokens(), window = options.t5_tokens.value_or(most);
  if (window >= 1 && window <= most) return window;
  throw Error("t5_tokens", "from 1 to " + shown(most) + ", for this model", shown(window));
}

}  // namespace detail

/// Says what decides encoded prompts beside their texts: the files of encoders and tokenizers, by
/// fingerprint(), precision and window. What was encoded under another text is stale.
/// @throws Error naming a component that is missing or cannot be read
inline std::string prompt_source(const Folder& folder, const PromptOptions& options) {
  return "FLUX.1" + encoder_source(folder, "tokenizer", "text_encoder", options.clip) +
         encoder_source(folder, "tokenizer_2", "text_encoder_2", options.t5) + "; " +
         std::to_string(detail::t5_window(folder, options)) + " T5 tokens";
}

/// Encodes prompts with the encoders of a folder, one encoder in memory at a time: the sequence is
/// T5's last state alone, the pooled vector CLIP's normalised state at the end of the text, without
/// a projection.
/// @param folder with the text encoders and their tokenizers
/// @param captions at least one
/// @param options how
/// @param warn told of each caption that is longer than T5's window, and cut; CLIP's is shorter,
/// and
///   what it does not see T5 may
/// @return one row a caption, on the CPU: `PromptRows(condition, captions)` are prompts whose
/// rewards read captions
/// @throws Error naming the file or option at fault
template <class Warn>
TextCondition encode_prompts(const Folder& folder, const std::vector<std::string>& captions,
                             const PromptOptions& options, Warn&& warn) {
  expects(!captions.empty(), "captions", "at least one", 0);
  expects(options.at_once >= 1, "at_once", "at least 1", options.at_once);
  const std::int64_t window = detail::t5_window(folder, options);
  const at::NoGradGuard no_gradient;
  const Tensor pooled = clip_states("CLIP-L", "tokenizer", "text_encoder", folder, captions,
                                    options.clip, options.at_once, [](const Warning&) {})
                            .pooled.to(at::kCPU);
  const Tensor sequence = t5_states("tokenizer_2", "text_encoder_2", window, folder, captions,
                                    options.t5, options.at_once, warn)
                              .to(at::kCPU);
  return {sequence, pooled};
}
/// The same, where nobody wants to hear of captions that are cut.
inline TextCondition encode_prompts(const Folder& folder, const std::vector<std::string>& captions,
                                    const PromptOptions& options = {}) {
  return encode_prompts(folder, captions, options, [](const Warning&) {});
}

}  // namespace contraflow::flux
