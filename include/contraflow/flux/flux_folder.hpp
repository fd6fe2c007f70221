#pragma once

/// @file
/// A model folder of FLUX.1, loaded component by component.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include <contraflow/flux/flux_config.hpp>
#include <contraflow/flux/model.hpp>
#include <contraflow/pipeline/model_folder.hpp>

namespace contraflow::flux {

// What all models of this layout share is at hand under this name, too.
using namespace pipeline;

/// A folder of FLUX.1, [dev] or [schnell], as it is downloaded: a transformer, an autoencoder, the
/// text encoder of CLIP and that of T5. Single files in the original layout beside them are left
/// alone.
class Folder : public ModelFolder {
 public:
  using ModelFolder::clip;
  using ModelFolder::clip_tokenizer;
  using ModelFolder::t5;
  using ModelFolder::t5_tokenizer;

  /// @param path holds `transformer`, `vae`, `text_encoder` and so on
  /// @throws Error if there is no transformer in it, or that of another model
  explicit Folder(std::filesystem::path path) : ModelFolder(std::move(path)) {
    settings("transformer").expects_text("_class_name", "FluxTransformer2DModel");
  }

  /// Shape of the transformer.
  FluxOptions transformer_options() const { return network_options(settings("transformer")); }
  /// The transformer.
  /// @param placement dtype and device
  /// @param guidance scale that is told to it, see Model
  /// @param run what is done for training
  /// @param blocks how they keep their weights
  /// @throws Error naming the file at fault
  Model transformer(const Placement& placement = {}, double guidance = 3.5, FluxRunOptions run = {},
                    BlockWeights blocks = BlockWeights::as_placed) const {
    return Model(loaded_transformer<FluxNetwork>(transformer_options(), placement, blocks),
                 guidance, run);
  }

  /// The text encoder of CLIP; frozen.
  /// @throws Error naming the file at fault
  std::shared_ptr<ClipText> clip(const Placement& placement = {}) const {
    return clip("text_encoder", placement);
  }
  /// The text encoder of T5; frozen.
  /// @throws Error naming the file at fault
  std::shared_ptr<T5Encoder> t5(const Placement& placement = {}) const {
    return t5("text_encoder_2", placement);
  }
  /// The tokenizer of CLIP.
  ClipTokenizer clip_tokenizer() const { return clip_tokenizer("tokenizer"); }
  /// The tokenizer of T5, for a window of @p length tokens.
  T5Tokenizer t5_tokenizer(std::int64_t length) const {
    return t5_tokenizer("tokenizer_2", length);
  }
  /// The longest window of T5 that the transformer was trained with: 512 tokens for [dev], 256 for
  /// [schnell], which has no embedding of guidance.
  std::int64_t most_t5_tokens() const { return transformer_options().guidance_embeds ? 512 : 256; }

  /// The sampling grid of the scheduler.
  /// @param steps at least 1
  /// @param shape of one image's latents, see latent_shape(); the shift of [dev] depends on it
  /// @throws Error if an argument is out of range, or the file cannot be read
  TimeGrid grid(int steps, const std::vector<std::int64_t>& shape) const {
    const Settings scheduler(folder_of("scheduler") / "scheduler_config.json");
    return flux::grid(steps, token_count(shape), grid_options(scheduler));
  }
};

}  // namespace contraflow::flux
