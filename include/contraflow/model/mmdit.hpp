#pragma once

/// @file
/// The transformer of Stable Diffusion 3 and 3.5 as velocity.

#include <memory>
#include <utility>

#include <contraflow/network/mmdit_network.hpp>
#include <contraflow/network/text_condition.hpp>
#include <contraflow/network/weights.hpp>

namespace contraflow {

/// MM-DiT, the velocity of Stable Diffusion 3 and 3.5 (Esser and others 2024), for any size: with a
/// second attention over the image (the X of MM-DiT-X) and normalised queries, or without.
///
/// Both streams of tokens, image and text, attend to each other in every block; time and the pooled
/// prompt modulate the normalisations. The velocity comes in the dtype of x_t, whatever the dtype
/// of the weights.
/// @par Shape
/// x_t [B, in_channels, H, W], t float32 [B] in [0, 1], condition of B rows; result as x_t
class Mmdit {
 public:
  /// @param network shared: copies of this model share its weights
  /// @param run what is done for training
  explicit Mmdit(std::shared_ptr<MmditNetwork> network, MmditRunOptions run = {})
      : network_(std::move(network)), run_(run) {}

  /// The velocity.
  Tensor operator()(const Tensor& x_t, const Tensor& t, const TextCondition& condition) {
    return network_->forward(x_t, t, condition, run_).to(x_t.scalar_type());
  }

  /// The network, whose parameters are trained.
  std::shared_ptr<torch::nn::Module> module() const { return network_; }
  /// The same, as it is.
  MmditNetwork& network() const { return *network_; }
  /// With weights of its own.
  Mmdit clone() const {
    auto copy = std::make_shared<MmditNetwork>(network_->options());
    copy_weights(*network_, *copy);
    return Mmdit(std::move(copy), run_);
  }

 private:
  std::shared_ptr<MmditNetwork> network_;
  MmditRunOptions run_;
};

}  // namespace contraflow
