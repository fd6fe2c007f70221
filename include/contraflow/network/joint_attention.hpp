#pragma once

/// @file
/// Attention of streams of tokens over all of them: fused on the CPU in float32 where tokens are
/// few, LibTorch's elsewhere.

#include <array>
#include <utility>
#include <vector>

#include <torch/csrc/autograd/custom_function.h>

#include <contraflow/core/autograd.hpp>
#include <contraflow/core/tensor.hpp>
#include <contraflow/kernels/short_attention.hpp>
#include <contraflow/network/fused.hpp>
#include <contraflow/network/layers.hpp>

namespace contraflow {

/// A stream of tokens that takes part in an attention, as it comes out of linear layers.
struct AttentionTokens {
  Tensor query;         ///< [B, N, heads C]; undefined: these tokens are only looked at
  Tensor key;           ///< [B, L, heads C]; L is N where tokens look at themselves
  Tensor value;         ///< [B, L, heads C]
  Tensor query_weight;  ///< [C] of the root-mean-square norm of a query's head; undefined: no norm
  Tensor key_weight;    ///< [C] of that of a key's head; undefined: no norm
};

namespace detail {

/// Tokens that look plus tokens that are looked at, up to which the kernel was measured to be the
/// faster one.
inline constexpr std::int64_t most_fused_tokens = 1024;

/// The tensors of a stream one after another, as autograd wants its arguments.
inline constexpr std::size_t stream_tensors = 5;

inline std::vector<Tensor> flattened(const std::vector<AttentionTokens>& streams) {
  std::vector<Tensor> all;
  for (const AttentionTokens& stream : streams) {
    for (const Tensor& x :
         {stream.query, stream.key, stream.value, stream.query_weight, stream.key_weight}) {
      all.push_back(x.defined() ? x.contiguous() : x);
    }
  }
  return all;
}

inline kernels::AttentionShape attention_shape(at::TensorList all, std::int64_t heads) {
  return {all[1].size(0), heads, all[1].size(2) / heads};
}

inline std::vector<kernels::AttentionStream> attention_streams(at::TensorList all) {
  std::vector<kernels::AttentionStream> streams;
  for (std::size_t i = 0; i < all.size(); i += stream_tensors) {
    streams.push_back({all[i].defined() ? all[i].size(1) : 0, all[i + 1].size(1),
                       numbers_of(all[i]), numbers_of(all[i + 1]), numbers_of(all[i + 2]),
                       numbers_of(all[i + 3]), numbers_of(all[i + 4])});
  }
  return streams;
}

/// What the queries find, for the streams that have some.
inline std::vector<Tensor> run_attention(at::TensorList all, std::int64_t heads, double eps) {
  std::vector<Tensor> found;
  std::vector<float*> out;
  for (std::size_t i = 0; i < all.size(); i += stream_tensors) {
    const bool has_queries = all[i].defined();
    if (has_queries) found.push_back(at::empty_like(all[i]));
    out.push_back(has_queries ? found.back().mutable_data_ptr<float>() : nullptr);
  }
  const auto streams = attention_streams(all);
  kernels::attention(attention_shape(all, heads), streams, out, float(eps), TorchLoop{});
  return found;
}

class FusedAttention : public torch::autograd::Function<FusedAttention> {
 public:
  static std::vector<Tensor> forward(torch::autograd::AutogradContext* context, std::int64_t heads,
                                     double eps, std::int64_t streams,
                                     const std::vector<std::int64_t>& places,
                                     at::TensorList tensors) {
    context->save_for_backward(tensors.vec());
    context->saved_data["heads"] = heads;
    context->saved_data["eps"] = eps;
    context->saved_data["streams"] = streams;
    context->saved_data["places"] = places;
    return run_attention(spread(tensors, places, stream_tensors * std::size_t(streams)), heads,
                         eps);
  }

  static std::vector<Tensor> backward(torch::autograd::AutogradContext* context,
                                      std::vector<Tensor> upstream) {
    expects_first_derivative();
    const std::int64_t heads = context->saved_data["heads"].toInt();
    const double eps = context->saved_data["eps"].toDouble();
    const auto streams = std::size_t(context->saved_data["streams"].toInt());
    const std::vector<std::int64_t> places = context->saved_data["places"].toIntVector();
    const auto saved = context->get_saved_variables();
    const std::vector<Tensor> all = spread(saved, places, stream_tensors * streams);

    // The first four arguments of forward are no tensors, and have no gradients.
    std::vector<Tensor> result(4), room(all.size());
    for (std::size_t i = 0; i < saved.size(); ++i) {
      const auto place = std::size_t(places[i]);
      const bool is_weight = place % stream_tensors >= 3;
      if (!is_weight || context->needs_input_grad(i)) room[place] = at::empty_like(saved[i]);
      result.push_back(room[place]);
    }
    std::vector<kernels::AttentionGradient> gradients;
    auto next = upstream.begin();
    for (std::size_t i = 0; i < all.size(); i += stream_tensors) {
      if (all[i].defined()) *next = next->contiguous();
      gradients.push_back({all[i].defined() ? numbers_of(*next++) : nullptr, room_of(room[i]),
                           room_of(room[i + 1]), room_of(room[i + 2]), room_of(room[i + 3]),
                           room_of(room[i + 4])});
    }
    kernels::attention_backward(attention_shape(all, heads), attention_streams(all), gradients,
                                float(eps), TorchLoop{});
    return result;
  }
};

inline Tensor normalised_heads(const Tensor& x, const Tensor& weight, std::int64_t heads,
                               double eps) {
  const Tensor split = split_heads(x, heads);
  return weight.defined() ? rms_normalised(split, weight, eps) : split;
}

/// What the queries find, for the streams that have some: operations of LibTorch.
inline std::vector<Tensor> composed_attention(const std::vector<AttentionTokens>& streams,
                                              std::int64_t heads, double eps) {
  std::vector<Tensor> query, key, value;
  std::vector<std::int64_t> counts;
  for (const AttentionTokens& stream : streams) {
    key.push_back(normalised_heads(stream.key, stream.key_weight, heads, eps));
    value.push_back(split_heads(stream.value, heads));
    if (!stream.query.defined()) continue;
    query.push_back(normalised_heads(stream.query, stream.query_weight, heads, eps));
    counts.push_back(stream.query.size(1));
  }
  const auto joined = [](const std::vector<Tensor>& x) {
    return x.size() == 1 ? x.front() : at::cat(x, 2);
  };
  const Tensor found =
      join_heads(at::scaled_dot_product_attention(joined(query), joined(key), joined(value)));
  if (counts.size() == 1) return {found};
  return found.split_with_sizes(counts, 1);
}

inline void expects_attention(const std::vector<AttentionTokens>& streams, std::int64_t heads) {
  expects(!streams.empty(), "streams", "at least one", streams.size());
  const Tensor& like = streams.front().key;
  const auto fits = [&](const Tensor& x) {
    return x.defined() && x.dim() == 3 && x.size(0) == like.size(0) && x.size(2) == like.size(2);
  };
  expects(like.defined() && like.dim() == 3 && heads >= 1 && like.size(2) % heads == 0, "heads",
          "a divisor of the features of keys [B, L, features]", heads);
  bool has_queries = false;
  for (const AttentionTokens& stream : streams) {
    has_queries = has_queries || stream.query.defined();
    if (fits(stream.key) && fits(stream.value) && stream.value.size(1) == stream.key.size(1) &&
        (!stream.query.defined() || fits(stream.query))) {
      continue;
    }
    throw Error("streams", "queries, keys and values of one batch and size",
                shape_text(stream.query) + ", " + shape_text(stream.key) + " and " +
                    shape_text(stream.value));
  }
  expects(has_queries, "streams", "one with queries", streams.size());
}

inline bool takes_attention_kernel(const std::vector<AttentionTokens>& streams,
                                   std::int64_t heads) {
  std::int64_t tokens = 0;
  for (const AttentionTokens& stream : streams) {
    for (const Tensor& x : {stream.query, stream.key, stream.value}) {
      if (x.defined() && !takes_kernels(x)) return false;
    }
    for (const Tensor& x : {stream.query_weight, stream.key_weight}) {
      if (!x.defined()) continue;
      if (!takes_kernels(x) || x.numel() != stream.key.size(2) / heads) return false;
    }
    tokens += stream.key.size(1) + (stream.query.defined() ? stream.query.size(1) : 0);
  }
  return tokens <= most_fused_tokens;
}

}  // namespace detail

/// Attention of all streams' queries over all streams' keys (Esser and others 2024, figure 2): one
/// stream is attention as usual, two are joint attention of image and text.
///
/// `softmax(q k' / sqrt(C)) v` a head, where a head of q and k with a weight is
/// `x / sqrt(mean(x^2) + eps) weight` first. The fused form has first derivatives in reverse mode
/// only; see ComposedOnly.
/// @param streams at least one, of one batch; at least one has queries
/// @param heads divides the features
/// @param eps of the norms, above 0
/// @return for each stream that has queries, in order, what they found, [B, N, heads C]
/// @throws Error if shapes do not fit
inline std::vector<Tensor> attended(const std::vector<AttentionTokens>& streams, std::int64_t heads,
                                    double eps = 1e-6) {
  detail::expects_attention(streams, heads);
  if (!detail::takes_attention_kernel(streams, heads)) {
    return detail::composed_attention(streams, heads, eps);
  }
  const std::vector<Tensor> all = detail::flattened(streams);
  bool differentiable = false;
  for (const Tensor& x : all) differentiable = differentiable || detail::needs_gradient({x});
  if (!differentiable) return detail::run_attention(all, heads, eps);
  const detail::DefinedTensors defined(all);
  return detail::FusedAttention::apply(heads, eps, std::int64_t(streams.size()), defined.places,
                                       at::TensorList(defined.tensors));
}

}  // namespace contraflow
