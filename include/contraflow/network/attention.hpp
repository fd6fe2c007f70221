#pragma once

/// @file
/// Attention as a layer.

#include <cstdint>
#include <memory>

#include <contraflow/network/joint_attention.hpp>
#include <contraflow/network/layers.hpp>

namespace contraflow {

/// Attention of tokens over tokens, their own or others (Vaswani and others 2017, section 3.2).
/// @par Shape
/// x [B, N, size], context [B, L, context_size]; result [B, N, size]
class Attention : public torch::nn::Module {
 public:
  /// @param size features of a token
  /// @param heads divides @p size
  /// @param context_size features of a token that is attended to
  Attention(std::int64_t size, std::int64_t heads, std::int64_t context_size)
      : heads_(heads),
        query_(place<LoraLinear>(*this, "to_q", size, size)),
        key_(place<LoraLinear>(*this, "to_k", context_size, size)),
        value_(place<LoraLinear>(*this, "to_v", context_size, size)),
        out_(place<LoraLinear>(*this, "to_out.0", size, size)) {
    expects(heads >= 1 && size % heads == 0, "heads", "a divisor of the features", heads);
  }

  /// What @p x finds in @p context.
  Tensor forward(const Tensor& x, const Tensor& context) const {
    const AttentionTokens tokens{
        query_->forward(x), key_->forward(context), value_->forward(context), {}, {}};
    return out_->forward(attended({tokens}, heads_)[0]);
  }

 private:
  std::int64_t heads_;
  std::shared_ptr<LoraLinear> query_, key_, value_, out_;
};

}  // namespace contraflow
