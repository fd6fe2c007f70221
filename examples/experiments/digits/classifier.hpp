#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include <torch/torch.h>

#include <contraflow/network/weights.hpp>
#include <contraflow/toy/digits.hpp>
#include <contraflow/train/optimizer.hpp>

namespace digits {

namespace cf = contraflow;
using cf::Tensor;

/// Ink of samples, from 0 to 1. What lies outside is never shown, so a policy must not be paid for
/// it.
inline Tensor ink_of(const Tensor& x0) { return (cf::wide(x0) + 1).div(2).clamp(0, 1); }

/// A small convolutional network that tells digits apart.
class Classifier : public torch::nn::Module {
 public:
  explicit Classifier(cf::Generator& generator)
      : fine_(register_module("fine", torch::nn::Conv2d(convolution(1, 32)))),
        coarse_(register_module("coarse", torch::nn::Conv2d(convolution(32, 64).stride(2)))),
        hidden_(register_module("hidden", torch::nn::Linear(64 * 4 * 4, 128))),
        out_(register_module("out", torch::nn::Linear(128, cf::toy::digit_classes))) {
    // Torch's modules have drawn from its global generator: these are the weights that count.
    cf::initialise(*this, generator);
  }

  /// Log-probabilities of the ten digits.
  /// @par Shape
  /// @p x0 [B, 1, 8, 8]; result [B, 10]
  Tensor forward(const Tensor& x0) {
    const Tensor seen = at::silu(coarse_(at::silu(fine_(ink_of(x0)))));
    return at::log_softmax(out_(at::silu(hidden_(seen.flatten(1)))), 1);
  }

 private:
  static torch::nn::Conv2dOptions convolution(std::int64_t in, std::int64_t out) {
    return torch::nn::Conv2dOptions(in, out, 3).padding(1);
  }

  torch::nn::Conv2d fine_, coarse_;
  torch::nn::Linear hidden_, out_;
};

/// The probability that a classifier gives to the digit that was asked for.
struct Confidence {
  std::shared_ptr<Classifier> classifier;

  /// @par Shape
  /// @p x0 [B, 1, 8, 8], @p labels int64 [B]; result [B] in [0, 1]
  Tensor operator()(const Tensor& x0, const Tensor& labels) const {
    const at::NoGradGuard no_gradient;
    return classifier->forward(x0).exp().gather(1, labels.unsqueeze(1)).squeeze(1);
  }
};

/// Share of samples in which a classifier sees the digit that was asked for.
inline double accuracy(Classifier& classifier, const Tensor& x0, const Tensor& labels) {
  const at::NoGradGuard no_gradient;
  return (classifier.forward(x0).argmax(1) == labels).to(at::kDouble).mean().item<double>();
}

/// A classifier that has learnt digits, with noise on them.
/// @param seed of its first weights and of what it sees
inline std::shared_ptr<Classifier> trained_classifier(const cf::toy::Digits& data,
                                                      std::int64_t steps, std::uint64_t seed) {
  cf::Generator generator = cf::seeded(seed);
  const auto classifier = std::make_shared<Classifier>(generator);
  const auto optimizer =
      cf::adamw({.learning_rate = 1e-3, .weight_decay = 0.01})(classifier->parameters());
  for (std::int64_t step = 0; step < steps; ++step) {
    const auto batch = data(128, generator);
    const Tensor seen = batch.x0 + 0.3 * cf::normal_like(batch.x0, generator);
    optimizer->zero_grad();
    at::nll_loss(classifier->forward(seen), batch.condition).backward();
    optimizer->step();
  }
  return classifier;
}

}  // namespace digits
