#pragma once

/// @file
/// The diffusion transformer as velocity.

#include <contraflow/model/network_velocity.hpp>
#include <contraflow/network/dit_network.hpp>

namespace contraflow {

/// The diffusion transformer (Peebles and Xie 2023) as velocity of flows of images.
///
/// A transformer over patches whose normalisations are modulated by time and condition. Class
/// labels are added to the embedding of time; so is a pooled prompt, and its tokens are attended to
/// in every block. The default adapters of contraflow::Lora fit it. Weights may be in half
/// precision; the velocity comes in the dtype of x_t.
/// @par Shape
/// x_t [B, channels, sample_size, sample_size], t [B] in [0, 1]; result as x_t
class Dit : public detail::NetworkVelocity<Dit, DitNetwork> {
 public:
  using NetworkVelocity::NetworkVelocity;
};

}  // namespace contraflow
