#pragma once

/// @file
/// A model folder in the layout of diffusers, loaded component by component.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/network/clip.hpp>
#include <contraflow/network/clip_config.hpp>
#include <contraflow/network/t5.hpp>
#include <contraflow/network/t5_config.hpp>
#include <contraflow/network/vae.hpp>
#include <contraflow/network/vae_config.hpp>
#include <contraflow/network/weights.hpp>
#include <contraflow/pipeline/recognised.hpp>
#include <contraflow/text/clip_tokenizer.hpp>
#include <contraflow/text/t5_tokenizer.hpp>

namespace contraflow::pipeline {

/// How the blocks of a transformer keep the weights of their linear layers.
enum class BlockWeights {
  as_placed,  ///< in the dtype of its Placement
  int8        ///< in 8 bits, rounded as they are read: half of bfloat16; for a base under adapters
};

/// A folder in the layout of diffusers, as it is downloaded: what all models of this layout share.
///
/// Each call loads one component, and what it returns owns it: text encoders can be gone before the
/// transformer comes. Weights that already have the dtype asked for stay in the mapped file. Each
/// may be there in one file or in parts, and plain or as a variant, such as fp16; see
/// read_weights().
class ModelFolder {
 public:
  /// @param path holds `transformer`, `vae`, `text_encoder` and so on
  /// @throws Error if there is no transformer in it, saying what it is instead
  explicit ModelFolder(std::filesystem::path path) : path_(std::move(path)) {
    if (has("transformer")) return;
    throw Error(path_.string(),
                "a model folder in the layout of diffusers, with transformer/config.json",
                recognised(path_));
  }

  /// Where it is.
  const std::filesystem::path& path() const { return path_; }
  /// Whether there is a component of this name, such as `text_encoder_3`.
  bool has(const std::string& component) const {
    std::error_code unreadable;
    return std::filesystem::is_regular_file(path_ / component / "config.json", unreadable);
  }
  /// The folder of a component.
  /// @throws Error naming it and what there is, where it is missing
  std::filesystem::path folder_of(const std::string& component) const {
    std::error_code unreadable;
    if (std::filesystem::is_directory(path_ / component, unreadable)) return path_ / component;
    throw Error(path_.string(), "a whole model, with " + component,
                "a folder with " + detail::listed(safetensors::names_in(path_)));
  }
  /// The config.json of a component.
  /// @throws Error naming the component or file that is missing or damaged
  Settings settings(const std::string& component) const {
    return Settings(folder_of(component) / "config.json");
  }

  /// Shape of the autoencoder.
  VaeOptions autoencoder_options() const { return vae_options(settings("vae")); }
  /// The autoencoder, or its decoder alone; frozen.
  /// @throws Error naming the file at fault
  std::shared_ptr<Vae> vae(const Placement& placement = {},
                           VaeParts parts = VaeParts::decoder) const {
    auto network = std::make_shared<Vae>(autoencoder_options(), parts);
    const std::filesystem::path folder = folder_of("vae");
    load_weights(*network,
                 vae_weights(read_weights(folder, "diffusion_pytorch_model").tensors, parts),
                 folder.string(), placement);
    set_trainable(*network, false);
    return network;
  }

  /// A CLIP text encoder; frozen.
  /// @param component its folder, such as `text_encoder`
  /// @param placement dtype and device
  /// @throws Error naming the file at fault
  std::shared_ptr<ClipText> clip(const std::string& component,
                                 const Placement& placement = {}) const {
    const std::filesystem::path folder = folder_of(component);
    const auto weights = clip_weights(read_weights(folder).tensors);
    ClipTextOptions options = clip_text_options(settings(component));
    if (!settings(component).has("architectures")) {
      options.has_projection = weights.contains("text_projection.weight");
    }
    auto network = std::make_shared<ClipText>(options);
    load_weights(*network, weights, folder.string(), placement);
    set_trainable(*network, false);
    return network;
  }

  /// The encoder of a T5; frozen.
  /// @param component its folder, such as `text_encoder_3`
  /// @param placement dtype and device
  /// @throws Error naming the file at fault
  std::shared_ptr<T5Encoder> t5(const std::string& component,
                                const Placement& placement = {}) const {
    const std::filesystem::path folder = folder_of(component);
    auto network = std::make_shared<T5Encoder>(t5_options(settings(component)));
    load_weights(*network, t5_weights(read_weights(folder).tensors, placement.dtype),
                 folder.string(), {.device = placement.device});
    set_trainable(*network, false);
    return network;
  }

  /// A tokenizer of CLIP, in the folder of this name.
  ClipTokenizer clip_tokenizer(const std::string& component) const {
    return ClipTokenizer(folder_of(component));
  }
  /// A tokenizer of T5, in the folder of this name, for a window of @p length tokens.
  T5Tokenizer t5_tokenizer(const std::string& component, std::int64_t length) const {
    return T5Tokenizer(folder_of(component), length);
  }

 protected:
  /// A transformer with its weights.
  /// @tparam Network such as FluxNetwork
  /// @throws Error naming the file at fault
  template <class Network, class Options>
  std::shared_ptr<Network> loaded_transformer(const Options& options, const Placement& placement,
                                              BlockWeights blocks) const {
    auto network = std::make_shared<Network>(options);
    if (blocks == BlockWeights::int8) network->keep_blocks_in_int8();
    const std::filesystem::path folder = folder_of("transformer");
    load_weights(*network, read_weights(folder, "diffusion_pytorch_model").tensors, folder.string(),
                 placement);
    return network;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace contraflow::pipeline
