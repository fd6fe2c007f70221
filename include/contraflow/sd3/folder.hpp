#pragma once

/// @file
/// A model folder of Stable Diffusion 3.5, loaded component by component.

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/sd3/config.hpp>
#include <contraflow/text/clip_tokenizer.hpp>
#include <contraflow/text/t5_tokenizer.hpp>

namespace contraflow::sd3 {

/// A folder in the layout of diffusers, as it is downloaded.
///
/// Each call loads one component, and what it returns owns it: text encoders can be gone before the
/// transformer comes. Weights that already have the dtype asked for stay in the mapped file.
class Folder {
 public:
  /// @param path holds `transformer`, `vae`, `text_encoder` and so on
  /// @throws Error if there is no transformer in it
  explicit Folder(std::filesystem::path path) : path_(std::move(path)) {
    std::error_code unreadable;
    if (!std::filesystem::is_regular_file(path_ / "transformer" / "config.json", unreadable)) {
      throw Error(path_.string(),
                  "a model folder in the layout of diffusers, with transformer/config.json",
                  std::filesystem::exists(path_, unreadable) ? "another" : "nothing");
    }
  }

  /// Where it is.
  const std::filesystem::path& path() const { return path_; }
  /// Whether the third text encoder, T5, is there.
  bool has_t5() const {
    std::error_code unreadable;
    return std::filesystem::is_regular_file(path_ / "text_encoder_3" / "config.json", unreadable);
  }

  /// Shape of the transformer.
  MmditOptions transformer_options() const {
    return mmdit_options(Settings(path_ / "transformer" / "config.json"));
  }
  /// Shape of the autoencoder.
  VaeOptions autoencoder_options() const {
    return vae_options(Settings(path_ / "vae" / "config.json"));
  }

  /// The transformer.
  /// @throws Error naming the file at fault
  Mmdit transformer(const Placement& placement = {}, MmditRunOptions run = {}) const {
    auto network = std::make_shared<MmditNetwork>(transformer_options());
    load(*network, path_ / "transformer", "diffusion_pytorch_model", placement);
    return Mmdit(std::move(network), run);
  }

  /// The autoencoder, or its decoder alone; frozen.
  /// @throws Error naming the file at fault
  std::shared_ptr<Vae> vae(const Placement& placement = {},
                           VaeParts parts = VaeParts::decoder) const {
    auto network = std::make_shared<Vae>(autoencoder_options(), parts);
    const std::filesystem::path folder = path_ / "vae";
    load_weights(*network,
                 vae_weights(read_weights(folder, "diffusion_pytorch_model").tensors, parts),
                 folder.string(), placement);
    set_trainable(*network, false);
    return network;
  }

  /// One of the two CLIP text encoders; frozen.
  /// @param number 1 for CLIP-L, 2 for CLIP-G
  /// @param placement dtype and device
  /// @throws Error naming the file at fault
  std::shared_ptr<ClipText> clip(int number, const Placement& placement = {}) const {
    const std::filesystem::path folder = path_ / numbered("text_encoder", number);
    auto network = std::make_shared<ClipText>(clip_text_options(Settings(folder / "config.json")));
    load_weights(*network, clip_weights(read_weights(folder).tensors), folder.string(), placement);
    set_trainable(*network, false);
    return network;
  }

  /// The third text encoder; frozen.
  /// @throws Error naming the file at fault
  std::shared_ptr<T5Encoder> t5(const Placement& placement = {}) const {
    const std::filesystem::path folder = path_ / "text_encoder_3";
    auto network = std::make_shared<T5Encoder>(t5_options(Settings(folder / "config.json")));
    load_weights(*network, t5_weights(read_weights(folder).tensors, placement.dtype),
                 folder.string(), {.device = placement.device});
    set_trainable(*network, false);
    return network;
  }

  /// The tokenizer of a CLIP text encoder, 1 or 2.
  ClipTokenizer clip_tokenizer(int number) const {
    return ClipTokenizer(path_ / numbered("tokenizer", number));
  }
  /// The tokenizer of T5, for a window of @p length tokens.
  T5Tokenizer t5_tokenizer(std::int64_t length) const {
    return T5Tokenizer(path_ / "tokenizer_3", length);
  }

  /// The sampling grid of the scheduler.
  TimeGrid grid(int steps) const {
    return sd3_grid(steps, grid_options(Settings(path_ / "scheduler" / "scheduler_config.json")));
  }

 private:
  static std::string numbered(const char* name, int number) {
    expects(number == 1 || number == 2, "number", "1 or 2", number);
    return number == 1 ? name : std::string(name) + "_2";
  }

  static void load(torch::nn::Module& network, const std::filesystem::path& folder,
                   const char* stem, const Placement& placement) {
    load_weights(network, read_weights(folder, stem).tensors, folder.string(), placement);
  }

  std::filesystem::path path_;
};

}  // namespace contraflow::sd3
