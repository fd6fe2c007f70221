#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include <contraflow/reward/clip_score.hpp>
#include <contraflow/reward/exported.hpp>
#include <contraflow/reward/image_measures.hpp>
#include <contraflow/reward/jpeg_size.hpp>
#include <contraflow/reward/list.hpp>
#include <contraflow/reward/remote.hpp>

namespace support {

namespace cf = contraflow;

using ImageRewards = cf::RewardList<cf::Captions>;

inline constexpr const char* reward_help =
    "Rewards, each as name, name=weight, name:argument or name:argument=weight. Without an "
    "argument: "
    "jpeg-compressibility, jpeg-incompressibility, brightness, colourfulness, sharpness, palette. "
    "With a model's folder: clip, pickscore. With its files, separated by a comma: hps:WEIGHTS,"
    "TOKENIZER and aesthetic:CLIP,HEAD. With a file: exported. With an address: remote";

namespace detail {

/// Before and behind a separator; the second is empty where there is none.
inline std::pair<std::string, std::string> cut(const std::string& text, std::size_t at) {
  if (at == std::string::npos) return {text, ""};
  return {text.substr(0, at), text.substr(at + 1)};
}

inline void add_reward(ImageRewards& rewards, const std::string& name, const std::string& argument,
                       double weight) {
  const auto add = [&](auto reward) {
    rewards.add(name, std::move(reward), weight, cf::Normalisation::none);
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
  if (argument.empty()) {
    throw cf::Error("--reward", "one of the names in --help, some with :argument", name);
  }
  const auto [first, second] = cut(argument, argument.find(','));
  if (name == "clip") return add(cf::ClipScore(argument));
  if (name == "pickscore") return add(cf::PickScore(argument));
  if (name == "hps") return add(cf::HpsV21(first, {.tokenizer = second}));
  if (name == "aesthetic") return add(cf::Aesthetic(first, second));
  if (name == "exported") return add(cf::Exported(argument));
  if (name == "remote") return add(cf::Remote{.url = argument});
  throw cf::Error("--reward", "one of the names in --help", name);
}

}  // namespace detail

/// The rewards of a command line.
inline ImageRewards image_rewards(const std::vector<std::string>& texts) {
  ImageRewards rewards;
  for (const std::string& text : texts) {
    // An address or a path may hold a "=" itself; a weight is a number behind the last.
    auto [what, number] = detail::cut(text, text.rfind('='));
    char* end = nullptr;
    double weight = std::strtod(number.c_str(), &end);
    if (number.empty() || *end != '\0') {
      what = text;
      weight = 1;
    }
    const auto [name, argument] = detail::cut(what, what.find(':'));
    detail::add_reward(rewards, name, argument, weight);
  }
  return rewards;
}

}  // namespace support
