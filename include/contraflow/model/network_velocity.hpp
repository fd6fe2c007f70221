#pragma once

/// @file
/// How a network for images becomes a FlowModel.

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <contraflow/core/condition.hpp>
#include <contraflow/core/random.hpp>
#include <contraflow/network/text_condition.hpp>
#include <contraflow/network/weights.hpp>

namespace contraflow {

namespace detail {

/// A network as a FlowModel: copies share its weights, clones have their own.
template <class Derived, class Network>
class NetworkVelocity {
 public:
  using Options = typename Network::Options;  ///< settings of the network

  /// @param network shared: copies of this model share its weights
  explicit NetworkVelocity(std::shared_ptr<Network> network) : network_(std::move(network)) {}
  /// A new network.
  /// @param options its settings
  /// @param seed of its initial weights
  /// @throws Error if an option is out of range
  explicit NetworkVelocity(const Options& options, std::uint64_t seed = 0)
      : network_(std::make_shared<Network>(options)) {
    Generator generator = seeded(seed);
    initialise(*network_, generator, Network::initial_weight);
  }

  /// The velocity without a condition.
  Tensor operator()(const Tensor& x_t, const Tensor& t) { return (*this)(x_t, t, Unconditional{}); }
  /// The velocity under class labels, int64 [B] in [0, classes], the last for no class.
  Tensor operator()(const Tensor& x_t, const Tensor& t, const Tensor& labels) {
    return network_->forward(x_t, t, labels).to(x_t.scalar_type());
  }
  /// The velocity under prompts.
  Tensor operator()(const Tensor& x_t, const Tensor& t, const TextCondition& prompts) {
    return network_->forward(x_t, t, prompts).to(x_t.scalar_type());
  }
  /// The velocity without a condition.
  Tensor operator()(const Tensor& x_t, const Tensor& t, const Unconditional& nothing) {
    return network_->forward(x_t, t, nothing).to(x_t.scalar_type());
  }

  /// Shape of a sample, without the batch.
  std::vector<std::int64_t> sample_shape() const { return network_->sample_shape(); }
  /// The network, whose parameters are trained.
  std::shared_ptr<torch::nn::Module> module() const { return network_; }
  /// The same, as it is.
  Network& network() const { return *network_; }
  /// With weights of its own.
  Derived clone() const {
    auto copy = std::make_shared<Network>(network_->options());
    copy_weights(*network_, *copy);
    return Derived(std::move(copy));
  }

 private:
  std::shared_ptr<Network> network_;
};

}  // namespace detail

}  // namespace contraflow
