#pragma once

/// @file
/// Prompts as Stable Diffusion 3.5 sees them: encoded once, kept on disk.

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/model/text_condition.hpp>
#include <contraflow/sd3/folder.hpp>
#include <contraflow/train/report.hpp>

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

/// What an encoder gives for all tokens, some prompts at a time.
template <class F>
Tensor in_batches(const Tensor& ids, std::int64_t at_once, F&& encoded) {
  std::vector<Tensor> parts;
  for (const Tensor& part : ids.split(at_once)) parts.push_back(encoded(part));
  return at::cat(parts);
}

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

template <class Warn>
ClipTextOutput clip_encoded(const Folder& folder, int number,
                            const std::vector<std::string>& captions, const PromptOptions& options,
                            Warn&& warn) {
  const char* name = number == 1 ? "CLIP-L" : "CLIP-G";
  const Tensor ids =
      tokens(name, folder.clip_tokenizer(number), captions, warn).ids.to(options.clip.device);
  const auto encoder = folder.clip(number, options.clip);
  ClipTextOutput result;
  std::vector<Tensor> pooled;
  result.penultimate = in_batches(ids, options.at_once, [&](const Tensor& part) {
    const ClipTextOutput out = encoder->forward(part);
    pooled.push_back(out.pooled);
    return out.penultimate;
  });
  result.pooled = at::cat(pooled);
  return result;
}

template <class Warn>
Tensor t5_encoded(const Folder& folder, const std::vector<std::string>& captions,
                  const PromptOptions& options, Warn&& warn) {
  const auto count = std::int64_t(captions.size());
  if (!options.with_t5) {
    const std::int64_t width = folder.transformer_options().joint_attention_dim;
    return at::zeros({count, options.t5_tokens, width});
  }
  const Tensor ids = tokens("T5", folder.t5_tokenizer(options.t5_tokens), captions, warn)
                         .ids.to(options.t5.device);
  const auto encoder = folder.t5(options.t5);
  return in_batches(ids, options.at_once,
                    [&](const Tensor& part) { return encoder->forward(part); });
}

}  // namespace detail

/// Encodes prompts with the encoders of a folder, one encoder in memory at a time.
/// @param folder with the text encoders and their tokenizers
/// @param captions at least one; "" is the negative prompt of diffusers
/// @param options how
/// @param warn told of each caption that is longer than an encoder's window, and cut
/// @return one row a caption, on the CPU, numbered from 0
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
  TextCondition condition =
      combined(clip[0], clip[1], on_host(detail::t5_encoded(folder, captions, options, warn)));
  condition.prompt = at::arange(std::int64_t(captions.size()), at::kLong);
  return condition;
}
/// The same, where nobody wants to hear of captions that are cut.
inline TextCondition encode_prompts(const Folder& folder, const std::vector<std::string>& captions,
                                    const PromptOptions& options = {}) {
  return encode_prompts(folder, captions, options, [](const Warning&) {});
}

/// Writes encoded prompts, so that they are encoded once.
/// @param path safetensors file to write or replace
/// @param condition one row a caption
/// @param captions what was encoded
/// @param source what it was encoded with; has to be the same when it is read
/// @throws Error if the file cannot be written
inline void write_prompts(const std::filesystem::path& path, const TextCondition& condition,
                          const std::vector<std::string>& captions, const std::string& source) {
  write_safetensors(path, {{"sequence", condition.sequence}, {"pooled", condition.pooled}},
                    {{"captions", nlohmann::json(captions).dump()}, {"source", source}});
}

/// Reads encoded prompts, if they are there and of the same captions and source.
/// @param path a file that write_prompts() made
/// @param captions expected
/// @param source expected
/// @return the condition, mapped from the file; nothing where it has to be encoded anew
/// @throws Error for a file that is damaged
inline std::optional<TextCondition> read_prompts(const std::filesystem::path& path,
                                                 const std::vector<std::string>& captions,
                                                 const std::string& source) {
  std::error_code unreadable;
  if (!std::filesystem::exists(path, unreadable)) return std::nullopt;
  const SafetensorsFile file = read_safetensors(path);
  const auto holds = [&](const char* key, const std::string& value) {
    const auto found = file.metadata.find(key);
    return found != file.metadata.end() && found->second == value;
  };
  if (!holds("source", source) || !holds("captions", nlohmann::json(captions).dump())) {
    return std::nullopt;
  }
  const auto tensor = [&](const char* name) {
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end()) throw Error(path.string(), std::string(name), "none");
    return found->second;
  };
  return TextCondition{tensor("sequence"), tensor("pooled"),
                       at::arange(std::int64_t(captions.size()), at::kLong)};
}

}  // namespace contraflow::sd3
