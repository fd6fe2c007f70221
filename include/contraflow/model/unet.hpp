#pragma once

/// @file
/// The U-Net of diffusion models as velocity.

#include <contraflow/model/network_velocity.hpp>
#include <contraflow/network/unet_network.hpp>

namespace contraflow {

/// The U-Net of diffusion models (Ho and others 2020; Dhariwal and Nichol 2021) as velocity of
/// flows of small images, about 8 x 8 to 64 x 64.
///
/// Residual layers on several scales, attention on the coarser ones, and the results of the way
/// down joined on the way up. Time and condition modulate every layer; the tokens of prompts are
/// attended to wherever there is attention. Weights may be in half precision; the velocity comes in
/// the dtype of x_t.
/// @par Shape
/// x_t [B, channels, sample_size, sample_size], t [B] in [0, 1]; result as x_t
class Unet : public detail::NetworkVelocity<Unet, UnetNetwork> {
 public:
  using NetworkVelocity::NetworkVelocity;
};

}  // namespace contraflow
