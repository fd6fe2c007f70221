#pragma once

/// @file
/// A model in automatic mixed precision.

#include <optional>
#include <utility>

#include <contraflow/model/conversions.hpp>
#include <contraflow/network/autocast.hpp>

namespace contraflow {

/// A model whose matrix products run in half precision, as LibTorch's autocast decides.
///
/// For a float32 base, as the published trainers run it; with Half, scale the loss:
/// UpdateOptions::loss_scale. The velocity comes in the dtype of x_t.
template <class M>
class Autocasting : public detail::Wrapper<Autocasting<M>, M> {
 public:
  /// @param model a FlowModel
  /// @param dtype kHalf or kBFloat16; unset: the model as it is
  Autocasting(M model, std::optional<at::ScalarType> dtype)
      : detail::Wrapper<Autocasting<M>, M>(std::move(model)), dtype_(dtype) {}

  /// The velocity.
  /// @par Shape
  /// @p x_t [B, ...], @p t [B]; result as x_t
  template <class... C>
  Tensor operator()(const Tensor& x_t, const Tensor& t, const C&... condition) {
    const at::DeviceType device = x_t.device().type();
    const Autocast precision(device, dtype_ ? dtype_ : Autocast::in_force(device));
    return velocity_of(this->model_, x_t, t, detail::condition_of(condition...))
        .to(x_t.scalar_type());
  }

 private:
  std::optional<at::ScalarType> dtype_;
};

}  // namespace contraflow
