#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/reward/chat_judge.hpp>
#include <contraflow/reward/clip_score.hpp>
#include <contraflow/reward/exported.hpp>
#include <contraflow/reward/image_measures.hpp>
#include <contraflow/reward/jpeg_size.hpp>
#include <contraflow/reward/list.hpp>
#include <contraflow/reward/ocr_text.hpp>
#include <contraflow/reward/records.hpp>
#include <contraflow/reward/remote.hpp>
#include <contraflow/reward/reward_text.hpp>

#ifdef CONTRAFLOW_EXAMPLES_OCR
#include <contraflow/reward/ocr.hpp>
#endif

namespace support {

namespace cf = contraflow;

/// Told the records of prompts: a caption, and what else the file of prompts says.
using ImageRewards = cf::RewardList<cf::Records>;

inline constexpr const char* reward_help =
    "Rewards, each as name or name:argument, with a weight as name=0.5 or name=0.5:argument. "
    "Without an argument: "
    "jpeg-compressibility, jpeg-incompressibility, brightness, colourfulness, sharpness, palette, "
    "and ocr for what prompts quote, or have as \"text\", ocr:LANGUAGE for another than eng. "
    "With a model's folder: clip, pickscore. With its files, separated by a comma: hps:WEIGHTS,"
    "TOKENIZER and aesthetic:CLIP,HEAD. With a file: exported. With an address: remote. "
    "With an address or a JSON file of settings: chat";

namespace detail {

/// Of an address, or of a file of settings.
inline cf::ChatJudge chat_judge(const std::string& argument) {
  if (argument.find("://") == std::string::npos) return cf::read_chat_judge(argument);
  return {.url = argument};
}

#ifdef CONTRAFLOW_EXAMPLES_OCR
inline cf::Ocr ocr(const std::string& language) {
  if (language.empty()) return cf::Ocr();
  return cf::Ocr({.language = language});
}
#endif

inline void add_reward(ImageRewards& rewards, const cf::RewardText& text) {
  const std::string &name = text.name, &argument = text.argument;
  const auto add = [&]<class R>(R reward) {
    const std::string unused = rewards.unused(text.name);
    if constexpr (cf::Reward<R, cf::Records>) {
      rewards.add(unused, std::move(reward), text.weight);
    } else {
      rewards.add(unused, cf::OnCaptions(std::move(reward)), text.weight);
    }
  };
  if (name == "jpeg-compressibility") return add(cf::JpegCompressibility{});
  if (name == "jpeg-incompressibility") return add(cf::JpegIncompressibility{});
  if (name == "brightness") return add(cf::Brightness{});
  if (name == "colourfulness") return add(cf::Colourfulness{});
  if (name == "sharpness") return add(cf::Sharpness{});
  if (name == "palette") {
    // Red, green, blue, white and black: posters.
    const cf::Tensor colours =
        at::tensor({1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0});
    return add(cf::Palette{.colours = colours.reshape({5, 3}).to(at::kFloat)});
  }
  if (name == "ocr") {
#ifdef CONTRAFLOW_EXAMPLES_OCR
    return add(ocr(argument));
#else
    throw cf::Error("--reward", "for ocr a program that was built with Tesseract", "one without");
#endif
  }
  if (argument.empty()) {
    throw cf::Error("--reward", "one of the names in --help, some with :argument", name);
  }
  const std::size_t comma = argument.find(',');
  const std::string first = argument.substr(0, comma);
  const std::string second = comma == std::string::npos ? "" : argument.substr(comma + 1);
  if (name == "clip") return add(cf::ClipScore(argument));
  if (name == "pickscore") return add(cf::PickScore(argument));
  if (name == "hps") return add(cf::HpsV21(first, {.tokenizer = second}));
  if (name == "aesthetic") return add(cf::Aesthetic(first, second));
  if (name == "exported") return add(cf::Exported(argument));
  const auto add_judge = [&](auto judge) {
    judge.check();  // now, not when the first images are there
    add(std::move(judge));
  };
  if (name == "remote") return add_judge(cf::Remote{.url = argument});
  if (name == "chat") return add_judge(chat_judge(argument));
  throw cf::Error("--reward", "one of the names in --help", name);
}

}  // namespace detail

/// The rewards of a command line.
inline ImageRewards image_rewards(const std::vector<std::string>& texts) {
  ImageRewards rewards;
  for (const std::string& text : texts) detail::add_reward(rewards, cf::reward_text(text));
  return rewards;
}

/// Throws Error where a reward of a command line would not be told what it asks of prompts.
inline void expects_prompts_for(const std::vector<std::string>& texts, const cf::Records& prompts) {
  for (const std::string& text : texts) {
    if (cf::reward_text(text).name == "ocr") cf::wanted_texts(prompts);
  }
}

}  // namespace support
