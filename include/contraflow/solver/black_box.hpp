#pragma once

/// @file
/// Samplers of other libraries.

#include <utility>

#include <contraflow/solver/concept.hpp>

namespace contraflow {

/// A sampler of the user's that only returns clean samples.
///
/// Forward-process objectives such as Nft need no more. The callable is given the velocity, the
/// noise [B, ...] and the generator, or the noise alone, and returns x0 [B, ...].
template <class F>
class BlackBox {
 public:
  /// @param sampler called as `sampler(velocity, noise, generator)` or `sampler(noise)`
  explicit BlackBox(F sampler) : sampler_(std::move(sampler)) {}

  /// Clean samples [B, ...] of the callable, float32 or wider.
  /// @throws Error if it returns another shape
  template <class V>
  Tensor sample(V& velocity, const Tensor& noise, Generator& generator) const {
    Tensor x0 = called(velocity, noise, generator);
    expects_like(x0, noise, "black-box sample");
    return wide(x0);
  }

 private:
  template <class V>
  Tensor called(V& velocity, const Tensor& noise, Generator& generator) const {
    if constexpr (std::is_invocable_v<const F&, V&, const Tensor&, Generator&>) {
      return sampler_(velocity, noise, generator);
    } else {
      return sampler_(noise);
    }
  }

  F sampler_;
};

}  // namespace contraflow
