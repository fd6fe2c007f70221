#pragma once

/// @file
/// A model folder of Stable Diffusion 3 or 3.5, loaded component by component.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <contraflow/model/mmdit.hpp>
#include <contraflow/pipeline/model_folder.hpp>
#include <contraflow/sd3/config.hpp>

namespace contraflow::sd3 {

// What all models of this layout share is at hand under this name, too.
using namespace pipeline;

/// A folder of Stable Diffusion 3 or 3.5 as it is downloaded, Medium or Large: a transformer, an
/// autoencoder, two text encoders of CLIP, and that of T5, which may be missing. Which model it is
/// the configurations say.
class Folder : public ModelFolder {
 public:
  using ModelFolder::clip;
  using ModelFolder::clip_tokenizer;
  using ModelFolder::t5;
  using ModelFolder::t5_tokenizer;

  /// @param path holds `transformer`, `vae`, `text_encoder` and so on
  /// @throws Error if there is no transformer in it, or that of another model
  explicit Folder(std::filesystem::path path) : ModelFolder(std::move(path)) {
    settings("transformer").expects_text("_class_name", "SD3Transformer2DModel");
  }

  /// Whether the third text encoder, T5, is there.
  bool has_t5() const { return has("text_encoder_3"); }

  /// Shape of the transformer.
  MmditOptions transformer_options() const { return mmdit_options(settings("transformer")); }
  /// The transformer.
  /// @param placement dtype and device
  /// @param run what is done for training
  /// @param blocks how they keep their weights
  /// @throws Error naming the file at fault
  Mmdit transformer(const Placement& placement = {}, MmditRunOptions run = {},
                    BlockWeights blocks = BlockWeights::as_placed) const {
    return Mmdit(loaded_transformer<MmditNetwork>(transformer_options(), placement, blocks), run);
  }

  /// One of the two CLIP text encoders; frozen.
  /// @param number 1 for CLIP-L, 2 for CLIP-G
  /// @param placement dtype and device
  /// @throws Error naming the file at fault
  std::shared_ptr<ClipText> clip(int number, const Placement& placement = {}) const {
    return clip(numbered("text_encoder", number), placement);
  }
  /// The third text encoder; frozen.
  /// @throws Error naming the file at fault
  std::shared_ptr<T5Encoder> t5(const Placement& placement = {}) const {
    return t5("text_encoder_3", placement);
  }

  /// The tokenizer of a CLIP text encoder, 1 or 2.
  ClipTokenizer clip_tokenizer(int number) const {
    return clip_tokenizer(numbered("tokenizer", number));
  }
  /// The tokenizer of T5, for a window of @p length tokens.
  T5Tokenizer t5_tokenizer(std::int64_t length) const {
    return t5_tokenizer("tokenizer_3", length);
  }

  /// The sampling grid of the scheduler.
  TimeGrid grid(int steps) const {
    const auto file = folder_of("scheduler") / "scheduler_config.json";
    return sd3_grid(steps, grid_options(Settings(file)));
  }

 private:
  static std::string numbered(const std::string& name, int number) {
    expects(number == 1 || number == 2, "number", "1 or 2", number);
    return number == 1 ? name : name + "_2";
  }
};

}  // namespace contraflow::sd3
