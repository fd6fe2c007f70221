#pragma once

/// @file
/// The transformer of FLUX.1 as velocity.

#include <memory>
#include <utility>

#include <contraflow/flux/packing.hpp>
#include <contraflow/network/flux.hpp>
#include <contraflow/network/text_condition.hpp>
#include <contraflow/network/weights.hpp>

namespace contraflow::flux {

/// FLUX.1 as a FlowModel, for any size.
///
/// States are latents, as those of other models: packing them to tokens is a matter of the network,
/// and solvers, rewards and decoders need not know of it. A guidance scale that the network was
/// distilled with is told to it, and costs nothing; true guidance with a negative prompt is Guided
/// around this model, where both passes are told the same scale. The velocity comes in the dtype
/// of x_t, whatever the dtype of the weights.
/// @par Shape
/// x_t [B, in_channels / 4, H, W] with H and W even, t float32 [B] in [0, 1], condition of B rows;
/// result as x_t
class Model {
 public:
  /// @param network shared: copies of this model share its weights; as many channels out as in
  /// @param guidance scale that is told to the network; [schnell], which has no embedding of it,
  ///   does not read it
  /// @param run what is done for training
  /// @throws Error if the velocity would not have the shape of x_t
  explicit Model(std::shared_ptr<FluxNetwork> network, double guidance = 3.5,
                 FluxRunOptions run = {})
      : network_(std::move(network)), guidance_(guidance), run_(run) {
    const FluxOptions& options = network_->options();
    expects(options.out_channels == options.in_channels, "out_channels", "as in_channels",
            options.out_channels);
  }

  /// The velocity.
  Tensor operator()(const Tensor& x_t, const Tensor& t, const TextCondition& condition) {
    const Tensor tokens = packed(x_t);
    const std::int64_t rows = x_t.size(2) / token_side, columns = x_t.size(3) / token_side;
    const Tensor v = network_->forward(
        tokens, condition, {t, at::full_like(t, guidance_), image_positions(rows, columns)}, run_);
    return unpacked(v, rows, columns).to(x_t.scalar_type());
  }

  /// The network, whose parameters are trained.
  std::shared_ptr<torch::nn::Module> module() const { return network_; }
  /// The same, as it is.
  FluxNetwork& network() const { return *network_; }
  /// The guidance scale that is told to the network.
  double guidance() const { return guidance_; }
  /// With weights of its own.
  Model clone() const {
    auto copy = std::make_shared<FluxNetwork>(network_->options());
    copy_weights(*network_, *copy);
    return Model(std::move(copy), guidance_, run_);
  }

 private:
  std::shared_ptr<FluxNetwork> network_;
  double guidance_;
  FluxRunOptions run_;
};

}  // namespace contraflow::flux
