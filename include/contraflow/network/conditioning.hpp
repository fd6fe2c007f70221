#pragma once

/// @file
/// What networks for images of any kind share: how time, labels and prompts enter.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/network/layers.hpp>
#include <contraflow/network/text_condition.hpp>

namespace contraflow {

/// What a network is conditioned on: nothing, class labels, or prompts.
struct ConditioningOptions {
  /// Number of class labels, 0 for none. The label after the last means no class, for guidance.
  std::int64_t classes = 0;
  std::int64_t text_size = 0;    ///< features of a token of the prompt, 0 for no prompts
  std::int64_t pooled_size = 0;  ///< features of the pooled prompt, above 0 where text_size is
};

namespace detail {

/// Time and condition as a network's layers see them.
struct Embedded {
  Tensor vector;         ///< [B, size], of time and of what a sample has once
  Tensor sequence = {};  ///< [B, L, size], of the prompt's tokens; undefined without prompts
};

/// Embeds time and condition; registered below any module.
class Conditioning {
 public:
  Conditioning(torch::nn::Module& root, const ConditioningOptions& options, std::int64_t size)
      : options_(checked(options)),
        time_(place<EmbeddingMlp>(root, "time_embedder", time_features, size)) {
    if (options.classes > 0) {
      labels_ = place<Embedding>(root, "label_embedder", options.classes + 1, size);
    }
    if (options.text_size == 0) return;
    pooled_ = place<EmbeddingMlp>(root, "text_embedder", options.pooled_size, size);
    context_ = place<LoraLinear>(root, "context_embedder", options.text_size, size);
  }

  Embedded operator()(const Tensor& t, const Unconditional&) const {
    expects(!labels_, "condition", "class labels, for a model that has classes", "nothing");
    expects(!context_, "condition", "prompts, for a model that is conditioned on text", "nothing");
    return {time(t)};
  }
  Embedded operator()(const Tensor& t, const Tensor& labels) const {
    expects(labels_ != nullptr, "condition", "no labels, for a model that has no classes",
            shape_text(labels));
    expects_per_sample(labels, t, "condition");
    expects_below(labels, options_.classes + 1, "condition",
                  "class labels in [0, " + shown(options_.classes) + "], the last for no class");
    return {time(t) + labels_->forward(labels)};
  }
  Embedded operator()(const Tensor& t, const TextCondition& prompts) const {
    expects(context_ != nullptr, "condition", "no prompts, for a model without text",
            shape_text(prompts.sequence));
    expects_last(prompts.sequence, 3, options_.text_size, "condition.sequence");
    expects_last(prompts.pooled, 2, options_.pooled_size, "condition.pooled");
    const auto dtype = context_->dtype();
    return {time(t) + pooled_->forward(on_device(prompts.pooled, t.device(), dtype)),
            context_->forward(on_device(prompts.sequence, t.device(), dtype))};
  }

 private:
  static constexpr std::int64_t time_features = 256;
  // The frequencies of the sinusoid are made for times up to 1000.
  static constexpr double time_scale = 1000;

  static ConditioningOptions checked(const ConditioningOptions& options) {
    expects(options.classes >= 0, "classes", "at least 0", options.classes);
    expects(options.text_size >= 0, "text_size", "at least 0", options.text_size);
    expects(options.classes == 0 || options.text_size == 0, "text_size",
            "0, for a model that has classes", options.text_size);
    expects((options.text_size > 0) == (options.pooled_size > 0), "pooled_size",
            "above 0 exactly where text_size is", options.pooled_size);
    return options;
  }
  static void expects_last(const Tensor& x, std::int64_t rank, std::int64_t size,
                           const char* name) {
    if (x.defined() && x.dim() == rank && x.size(rank - 1) == size) return;
    throw Error(name, std::string("shape [B, ") + (rank == 3 ? "L, " : "") + shown(size) + "]",
                shape_text(x));
  }

  Tensor time(const Tensor& t) const {
    const Tensor features = sinusoid(t * time_scale, time_features);
    return time_->forward(features.to(time_->parameters().front().scalar_type()));
  }

  ConditioningOptions options_;
  std::shared_ptr<EmbeddingMlp> time_, pooled_;
  std::shared_ptr<Embedding> labels_;
  std::shared_ptr<LoraLinear> context_;
};

/// Throws Error unless @p x_t is [B, ...shape].
inline void expects_shape(const Tensor& x_t, const std::vector<std::int64_t>& shape) {
  if (x_t.defined() && x_t.dim() == std::int64_t(shape.size()) + 1 &&
      x_t.sizes().slice(1) == at::IntArrayRef(shape)) {
    return;
  }
  throw Error("x_t", "shape [B] and " + shown(at::IntArrayRef(shape)) + " of a sample",
              shape_text(x_t));
}

}  // namespace detail

}  // namespace contraflow
