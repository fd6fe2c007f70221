#pragma once

/// @file
/// Rewards that are CLIP with a head: CLIP score, PickScore, HPS v2.1 and the aesthetic predictor.

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/network/clip.hpp>
#include <contraflow/network/clip_config.hpp>
#include <contraflow/network/open_clip.hpp>
#include <contraflow/reward/clip_image.hpp>
#include <contraflow/text/clip_tokenizer.hpp>

namespace contraflow {

/// What the rewards on CLIP leave to choose.
struct ClipRewardOptions {
  /// Folder of vocab.json and merges.txt; empty: where the model is. All published models share
  /// theirs.
  std::filesystem::path tokenizer = {};
  /// Dtype and device of the model; scores are float32 in any case.
  Placement placement = {.dtype = at::kFloat};
  std::int64_t batch = 16;  ///< images at a time, at least 1
  /// How images are prepared; unset: as published for the reward.
  std::optional<ClipPreprocessing> preprocessing = {};
};

namespace detail {

inline Tensor unit_vectors(const Tensor& x) {
  const Tensor full = x.to(at::kFloat);
  return full / full.norm(2, -1, /*keepdim=*/true);
}

// Embeddings of images as unit vectors.
template <class Embed>
Tensor image_vectors(const Tensor& images, std::int64_t size, ClipPreprocessing preprocessing,
                     const ClipRewardOptions& options, Embed&& embed) {
  expects_images(images);
  const at::NoGradGuard no_grad;
  return in_parts(images, options.batch, [&](const Tensor& part) {
    const Tensor pixels = clip_pixels(part, size, options.preprocessing.value_or(preprocessing));
    return unit_vectors(embed(pixels.to(options.placement.device)));
  });
}

// Both towers with a tokenizer.
class ClipPair {
 public:
  ClipPair(const ClipOptions& shape, const std::map<std::string, Tensor>& weights,
           const std::string& source, const std::filesystem::path& folder,
           ClipPreprocessing preprocessing, ClipRewardOptions options)
      : tokenizer_(std::make_shared<const ClipTokenizer>(
            options.tokenizer.empty() ? folder : options.tokenizer)),
        preprocessing_(preprocessing),
        options_(std::move(options)) {
    expects(options_.batch >= 1, "batch", "at least 1", options_.batch);
    const auto network = std::make_shared<Clip>(shape);
    load_weights(*network, weights, source, options_.placement);
    set_trainable(*network, false);
    network_ = network;
  }

  static ClipPair from_folder(const std::filesystem::path& folder, ClipPreprocessing preprocessing,
                              ClipRewardOptions options) {
    return ClipPair(clip_options(Settings(folder / "config.json")),
                    clip_weights(read_weights(folder).tensors), folder.string(), folder,
                    preprocessing, std::move(options));
  }

  // Cosines of images with their captions, float32 [B] on the CPU.
  Tensor cosines(const Tensor& images, const Captions& captions) const {
    expects_images(images);
    expects_captions(captions, images);
    const Tensor seen =
        image_vectors(images, network_->vision_options().image_size, preprocessing_, options_,
                      [&](const Tensor& pixels) { return network_->image_embedding(pixels); });
    return without_broken((seen * caption_vectors(captions)).sum(-1).to(at::kCPU), images);
  }

  // What published scores multiply cosines by.
  double scale() const { return network_->scale().to(at::kDouble).item<double>(); }

 private:
  // A group of samples shares its caption: each is embedded once.
  Tensor caption_vectors(const Captions& captions) const {
    const at::NoGradGuard no_grad;
    std::map<std::string, std::int64_t> numbers;
    Captions distinct;
    std::vector<std::int64_t> rows;
    for (const std::string& caption : captions) {
      const auto [found, is_new] = numbers.try_emplace(caption, std::int64_t(distinct.size()));
      if (is_new) distinct.push_back(caption);
      rows.push_back(found->second);
    }
    const Tensor ids = tokenizer_->encode(distinct).ids.to(options_.placement.device);
    const Tensor vectors = in_parts(ids, options_.batch, [&](const Tensor& part) {
      return unit_vectors(network_->text_embedding(part));
    });
    return vectors.index_select(0, at::tensor(rows, at::kLong).to(vectors.device()));
  }

  std::shared_ptr<const ClipTokenizer> tokenizer_;
  std::shared_ptr<const Clip> network_;
  ClipPreprocessing preprocessing_;
  ClipRewardOptions options_;
};

}  // namespace detail

/// How well an image fits its caption: the CLIP score of the published trainers.
///
/// `exp(logit_scale) cos(image, caption) / 100`. With the published weights the scale is 100, and
/// the score is the cosine (Radford and others 2021; Hessel and others 2021 without their
/// factor 2.5).
class ClipScore {
 public:
  /// @param folder as transformers writes it: config.json, model.safetensors and the tokenizer's
  ///   files, such as a copy of `openai/clip-vit-large-patch14`
  /// @param options tokenizer, precision, device
  /// @throws Error naming the file that is missing or does not fit
  explicit ClipScore(const std::filesystem::path& folder, ClipRewardOptions options = {})
      : clip_(detail::ClipPair::from_folder(folder, ClipPreprocessing::torchvision,
                                            std::move(options))) {}

  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B]
  /// @param images any size
  /// @param captions one an image; what exceeds 77 tokens is cut
  /// @throws Error for anything else
  Tensor operator()(const Tensor& images, const Captions& captions) const {
    return clip_.cosines(images, captions) * (clip_.scale() / 100);
  }

 private:
  detail::ClipPair clip_;
};

/// Which of two images people prefer for a caption: PickScore v1 (Kirstain and others 2023) as the
/// published trainers scale it.
///
/// `exp(logit_scale) cos(image, caption) / 26`: about 0.8 for good images.
class PickScore {
 public:
  /// @param folder as transformers writes it: config.json and model.safetensors, such as a copy of
  ///   `yuvalkirstain/PickScore_v1`
  /// @param options tokenizer (PickScore's folder has none: name that of
  ///   `laion/CLIP-ViT-H-14-laion2B-s32B-b79K`), precision, device
  /// @throws Error naming the file that is missing or does not fit
  explicit PickScore(const std::filesystem::path& folder, ClipRewardOptions options = {})
      : clip_(detail::ClipPair::from_folder(folder, ClipPreprocessing::transformers,
                                            std::move(options))) {}

  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B]
  /// @param images any size
  /// @param captions one an image; what exceeds 77 tokens is cut
  /// @throws Error for anything else
  Tensor operator()(const Tensor& images, const Captions& captions) const {
    return clip_.cosines(images, captions) * (clip_.scale() / 26);
  }

 private:
  detail::ClipPair clip_;
};

/// Which of two images people prefer for a caption: HPS v2.1 (Wu and others 2023), the cosine of
/// image and caption: about 0.3 for good images.
class HpsV21 {
 public:
  /// @param checkpoint the state dict of HPS_v2.1_compressed.pt as a safetensors file, under
  ///   OpenCLIP's names
  /// @param options tokenizer (empty: in the folder of @p checkpoint), precision, device
  /// @param shape of the model, whose files have no config.json
  /// @throws Error naming the file that is missing or does not fit
  explicit HpsV21(const std::filesystem::path& checkpoint, ClipRewardOptions options = {},
                  const ClipOptions& shape = clip_vit_h14())
      : clip_(shape, clip_weights_from_open_clip(read_safetensors(checkpoint).tensors),
              checkpoint.string(), checkpoint.parent_path(), ClipPreprocessing::padded,
              std::move(options)) {}

  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B]
  /// @param images any size
  /// @param captions one an image; what exceeds 77 tokens is cut
  /// @throws Error for anything else
  Tensor operator()(const Tensor& images, const Captions& captions) const {
    return clip_.cosines(images, captions);
  }

 private:
  detail::ClipPair clip_;
};

/// The head of the aesthetic predictor: linear layers without anything between them. What is
/// dropped out in training leaves gaps in their numbers.
/// @par Shape
/// x [B, features]; result [B, 1]
class AestheticHead : public torch::nn::Module {
 public:
  /// @param features of an embedding
  explicit AestheticHead(std::int64_t features)
      : layers_{place<LoraLinear>(*this, "layers.0", features, 1024),
                place<LoraLinear>(*this, "layers.2", 1024, 128),
                place<LoraLinear>(*this, "layers.4", 128, 64),
                place<LoraLinear>(*this, "layers.6", 64, 16),
                place<LoraLinear>(*this, "layers.7", 16, 1)} {}
  /// The scores.
  Tensor forward(Tensor x) const {
    for (const auto& layer : layers_) x = layer->forward(x);
    return x;
  }

 private:
  std::array<std::shared_ptr<LoraLinear>, 5> layers_;
};

/// How beautiful people find an image, from about 1 to 10: the LAION aesthetic predictor, linear
/// layers on CLIP's embedding of the image as a unit vector (Schuhmann and others 2022).
class Aesthetic {
 public:
  /// @param folder CLIP as transformers writes it: config.json and model.safetensors, such as a
  /// copy
  ///   of `openai/clip-vit-large-patch14`; only the vision tower is loaded
  /// @param head the state dict of `sac+logos+ava1-l14-linearMSE.pth` as a safetensors file
  /// @param options precision, device
  /// @throws Error naming the file that is missing or does not fit
  Aesthetic(const std::filesystem::path& folder, const std::filesystem::path& head,
            ClipRewardOptions options = {})
      : options_(std::move(options)) {
    expects(options_.batch >= 1, "batch", "at least 1", options_.batch);
    const ClipVisionOptions shape = clip_options(Settings(folder / "config.json")).vision;
    auto weights = clip_weights(read_weights(folder).tensors);
    std::erase_if(weights, [](const auto& item) {
      return item.first.starts_with("text_") || item.first == "logit_scale";
    });
    vision_ = loaded(std::make_shared<ClipVision>(shape), weights, folder.string());
    head_ = loaded(std::make_shared<AestheticHead>(shape.projection_dim),
                   read_safetensors(head).tensors, head.string());
  }

  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B]
  /// @throws Error for anything else
  Tensor operator()(const Tensor& images) const {
    const at::NoGradGuard no_grad;
    const Tensor vectors = detail::image_vectors(
        images, vision_->options().image_size, ClipPreprocessing::transformers, options_,
        [&](const Tensor& pixels) { return vision_->forward(pixels); });
    const Tensor scores = head_->forward(vectors.to(head_dtype())).squeeze(1);
    return detail::without_broken(scores.to(at::kCPU, at::kFloat), images);
  }

 private:
  template <class Network>
  std::shared_ptr<const Network> loaded(std::shared_ptr<Network> network,
                                        const std::map<std::string, Tensor>& weights,
                                        const std::string& source) const {
    load_weights(*network, weights, source, options_.placement);
    set_trainable(*network, false);
    return network;
  }
  at::ScalarType head_dtype() const { return head_->parameters().front().scalar_type(); }

  ClipRewardOptions options_;
  std::shared_ptr<const ClipVision> vision_;
  std::shared_ptr<const AestheticHead> head_;
};

}  // namespace contraflow
