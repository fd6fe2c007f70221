#pragma once

/// @file
/// Prompts as Stable Diffusion 3 and 3.5 see them.

#include <cstdint>
#include <string>
#include <vector>

#include <contraflow/network/text_condition.hpp>
#include <contraflow/observe/report.hpp>
#include <contraflow/pipeline/text_states.hpp>
#include <contraflow/sd3/folder.hpp>

namespace contraflow::sd3 {

/// How prompts are encoded.
struct PromptOptions {
  std::int64_t t5_tokens = 256;  ///< window of T5: 256 in diffusers, 128 in the published trainers
  bool with_t5 = true;           ///< without, zeros stand for it, as in diffusers
  Placement clip = {};           ///< of the two CLIP encoders
  Placement t5 = {};             ///< of T5
  std::int64_t at_once = 8;      ///< prompts that pass an encoder together, at least 1
};

/// The rule of Stable Diffusion 3 for three text encoders: the two CLIP sequences side by side and
/// padded with zeros to the width of T5's, then T5's behind them; pooled vectors side by side
/// (Esser and others 2024, figure 2).
/// @param clip_l penultimate state [B, L, a] and pooled [B, p]
/// @param clip_g penultimate state [B, L, b] and pooled [B, q]
/// @param t5 [B, T, D] with D at least a + b
/// @return sequence [B, L + T, D], pooled [B, p + q], in the widest of the dtypes
/// @throws Error if T5 is too narrow
inline TextCondition combined(const ClipTextOutput& clip_l, const ClipTextOutput& clip_g,
                              const Tensor& t5) {
  const Tensor clip = at::cat({clip_l.penultimate, clip_g.penultimate}, -1);
  const std::int64_t missing = t5.size(-1) - clip.size(-1);
  expects(missing >= 0, "t5", "at least as wide as both CLIP sequences together", t5.size(-1));
  return {at::cat({at::constant_pad_nd(clip, {0, missing}), t5}, 1),
          at::cat({clip_l.pooled, clip_g.pooled}, -1)};
}

namespace detail {

template <class Warn>
ClipTextOutput clip_encoded(const Folder& folder, int number,
                            const std::vector<std::string>& captions, const PromptOptions& options,
                            Warn&& warn) {
  const bool is_first = number == 1;
  return clip_states(is_first ? "CLIP-L" : "CLIP-G", is_first ? "tokenizer" : "tokenizer_2",
                     is_first ? "text_encoder" : "text_encoder_2", folder, captions, options.clip,
                     options.at_once, warn);
}

template <class Warn>
Tensor t5_encoded(const Folder& folder, const std::vector<std::string>& captions,
                  const PromptOptions& options, Warn&& warn) {
  if (!options.with_t5) {
    const std::int64_t width = folder.transformer_options().joint_attention_dim;
    return at::zeros({std::int64_t(captions.size()), options.t5_tokens, width});
  }
  return t5_states("tokenizer_3", "text_encoder_3", options.t5_tokens, folder, captions, options.t5,
                   options.at_once, warn);
}

}  // namespace detail

/// Says what decides encoded prompts beside their texts: the files of encoders and tokenizers, by
/// fingerprint(), precision and window. What was encoded under another text is stale.
/// @throws Error naming a component that is missing or cannot be read
inline std::string prompt_source(const Folder& folder, const PromptOptions& options) {
  std::string source = "Stable Diffusion 3";
  source += encoder_source(folder, "tokenizer", "text_encoder", options.clip);
  source += encoder_source(folder, "tokenizer_2", "text_encoder_2", options.clip);
  if (options.with_t5)
    source += encoder_source(folder, "tokenizer_3", "text_encoder_3", options.t5);
  return source + "; " + std::to_string(options.t5_tokens) + " T5 tokens";
}

/// Encodes prompts with the encoders of a folder, one encoder in memory at a time.
/// @param folder with the text encoders and their tokenizers
/// @param captions at least one; "" is the negative prompt of diffusers
/// @param options how
/// @param warn told of each caption that is longer than an encoder's window, and cut
/// @return one row a caption, on the CPU: `PromptRows(condition, captions)` are prompts whose
/// rewards read captions
/// @throws Error naming the file or option at fault
template <class Warn>
TextCondition encode_prompts(const Folder& folder, const std::vector<std::string>& captions,
                             const PromptOptions& options, Warn&& warn) {
  expects(!captions.empty(), "captions", "at least one", 0);
  expects(options.at_once >= 1, "at_once", "at least 1", options.at_once);
  expects(options.t5_tokens >= 1, "t5_tokens", "at least 1", options.t5_tokens);
  const at::NoGradGuard no_gradient;
  const auto on_host = [](const Tensor& x) { return x.to(at::kCPU); };
  ClipTextOutput clip[2];
  for (int number : {1, 2}) {
    const ClipTextOutput out = detail::clip_encoded(folder, number, captions, options, warn);
    clip[number - 1] = {{}, on_host(out.penultimate), on_host(out.pooled)};
  }
  return combined(clip[0], clip[1], on_host(detail::t5_encoded(folder, captions, options, warn)));
}
/// The same, where nobody wants to hear of captions that are cut.
inline TextCondition encode_prompts(const Folder& folder, const std::vector<std::string>& captions,
                                    const PromptOptions& options = {}) {
  return encode_prompts(folder, captions, options, [](const Warning&) {});
}

}  // namespace contraflow::sd3
