#pragma once

#include <algorithm>
#include <utility>

#include <torch/csrc/autograd/custom_function.h>

#include <contraflow/core/autograd.hpp>
#include <contraflow/core/parallel.hpp>
#include <contraflow/core/tensor.hpp>
#include <contraflow/kernels/nft_loss.hpp>

/// @file
/// The fused NFT loss on tensors: kernels/nft_loss.hpp with its gradient in torch's autograd.

namespace contraflow {

/// The tensors of one NFT loss.
/// @par Shape
/// velocities, x0 and eps [B, ...]; t and r [B]; v_ref may be undefined
struct NftInputs {
  Tensor v;      ///< velocity that is trained; float64, float32, bfloat16 or float16
  Tensor v_old;  ///< velocity that collected
  Tensor v_ref;  ///< velocity of the KL term; undefined: no such term
  Tensor x0;     ///< clean samples
  Tensor eps;    ///< noise
  Tensor t;      ///< times in [0, 1]
  Tensor r;      ///< optimality in [0, 1]
};

/// The numbers of one NFT loss.
struct NftSettings {
  double beta = 1;              ///< distance of the branches from v_old, above 0
  double kl_weight = 0;         ///< of the KL term
  bool negative_branch = true;  ///< false: without it, an ablation
};

/// Losses a sample, [B] float64; `total = policy + kl_weight kl` carries the gradient by v.
struct NftTerms {
  Tensor total;     ///< `policy + kl_weight kl`
  Tensor policy;    ///< both branches, weighted
  Tensor kl;        ///< `mean (v - v_ref)^2`
  Tensor positive;  ///< term of the positive branch
  Tensor negative;  ///< term of the negative branch
};

namespace detail {

inline void expects_nft_inputs(const NftInputs& in) {
  expects_samples(in.v, "v");
  expects_like(in.v_old, in.v, "v_old");
  if (in.v_ref.defined()) expects_like(in.v_ref, in.v, "v_ref");
  expects_like(in.x0, in.v, "x0");
  expects_like(in.eps, in.v, "eps");
  expects_per_sample(in.t, in.v, "t");
  expects_per_sample(in.r, in.v, "r");
}

/// The kernel's weighting for a batch: AdaptiveWeighting as it is, or the weights of the samples.
inline const kernels::AdaptiveWeighting& kernel_weighting(const kernels::AdaptiveWeighting& w) {
  return w;
}
inline kernels::FixedWeighting kernel_weighting(const Tensor& weight) {
  return {data_of<const double>(weight)};
}

/// Elements that are worth waking a thread for.
inline constexpr std::int64_t least_of_a_thread = 16384;

template <class V, class X, class Weighting>
void run_kernel(const NftInputs& in, const NftSettings& settings, const Weighting& weighting,
                NftTerms& out, Tensor& gradient) {
  const std::int64_t batch = in.v.size(0);
  kernels::NftLossArrays<V, X> arrays;
  arrays.v_theta = data_of<const V>(in.v);
  arrays.v_old = data_of<const V>(in.v_old);
  arrays.v_ref = in.v_ref.defined() ? data_of<const V>(in.v_ref) : nullptr;
  arrays.x0 = data_of<const X>(in.x0);
  arrays.eps = data_of<const X>(in.eps);
  arrays.t = data_of<const double>(in.t);
  arrays.r = data_of<const double>(in.r);
  arrays.gradient = gradient.defined() ? gradient.data_ptr<V>() : nullptr;
  arrays.batch = batch;
  arrays.elements = in.v.numel() / batch;
  // Upstream factors arrive a sample, behind the mean that the kernel takes over the batch.
  const kernels::NftLossSettings numbers{settings.beta, settings.kl_weight,
                                         static_cast<double>(batch),
                                         settings.negative_branch ? 1.0 : 0.0};
  kernels::nft_loss(
      arrays, numbers, kernel_weighting(weighting),
      {out.positive.data_ptr<double>(), out.negative.data_ptr<double>(), out.kl.data_ptr<double>()},
      TorchLoop{std::max<std::int64_t>(1, least_of_a_thread / arrays.elements)});
}

template <class Weighting>
void dispatch_kernel(const NftInputs& in, const NftSettings& settings, const Weighting& weighting,
                     NftTerms& out, Tensor& gradient) {
  switch (in.v.scalar_type()) {
    case at::kDouble:
      return run_kernel<double, double>(in, settings, weighting, out, gradient);
    case at::kFloat:
      return run_kernel<float, float>(in, settings, weighting, out, gradient);
    case at::kBFloat16:
      return run_kernel<at::BFloat16, float>(in, settings, weighting, out, gradient);
    case at::kHalf:
      return run_kernel<at::Half, float>(in, settings, weighting, out, gradient);
    default:
      throw Error("v", "float64, float32, bfloat16 or float16", shown(in.v.scalar_type()));
  }
}

/// Contiguous, in the types the kernel reads.
inline NftInputs prepared(const NftInputs& in) {
  const auto data_type = in.v.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto velocity_like = [&](const Tensor& x) {
    return x.defined() ? x.detach().to(in.v.scalar_type()).contiguous() : x;
  };
  return {velocity_like(in.v),
          velocity_like(in.v_old),
          velocity_like(in.v_ref),
          in.x0.to(data_type).contiguous(),
          in.eps.to(data_type).contiguous(),
          in.t.to(at::kDouble).contiguous(),
          in.r.to(at::kDouble).contiguous()};
}

inline Tensor policy_loss(const NftTerms& out, const Tensor& r, const NftSettings& settings,
                          const Tensor& factor) {
  Tensor sum = r * out.positive;
  if (settings.negative_branch) sum = sum + (1 - r) * out.negative;
  return sum * factor;
}
inline Tensor factor_of(const kernels::AdaptiveWeighting& weighting, const NftSettings& settings,
                        const Tensor& r) {
  return at::full_like(r, weighting.scale / settings.beta);
}
inline Tensor factor_of(const Tensor& weight, const NftSettings&, const Tensor&) { return weight; }

/// Gives the loss computed beside it the gradient computed with it.
class WithGradient : public torch::autograd::Function<WithGradient> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& v,
                        const Tensor& loss, const Tensor& gradient) {
    context->save_for_backward({gradient});
    static_cast<void>(v);
    return loss.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list upstream) {
    expects_first_derivative();
    const Tensor gradient = context->get_saved_variables()[0];
    const Tensor factor = per_sample(upstream[0], gradient).to(gradient.scalar_type());
    return {gradient * factor, Tensor(), Tensor()};
  }
};

/// The loss in tensor operations, for devices without the kernel; also the kernel's check.
inline NftTerms composed_nft_loss(const NftInputs& in, const NftSettings& settings,
                                  const kernels::AdaptiveWeighting* adaptive,
                                  const Tensor& weight) {
  const Tensor v_theta = wide(in.v), v_old = wide(in.v_old), target = wide(in.eps) - wide(in.x0);
  const Tensor t = per_sample(in.t.to(v_theta.scalar_type()), v_theta);
  const Tensor r = in.r.to(at::kDouble);
  const Tensor step = settings.beta * (v_theta - v_old);
  const auto branch = [&](const Tensor& error) {
    if (adaptive == nullptr) return mean_per_sample(error.square()).to(at::kDouble);
    const Tensor in_x0 = (t * error).to(at::kDouble);
    const Tensor size = in_x0.detach().abs().flatten(1).mean(1);
    return in_x0.square().flatten(1).mean(1) / size.clamp_min(adaptive->weight_floor);
  };
  NftTerms out;
  out.positive = branch(v_old - target + step);
  out.negative = branch(v_old - target - step);
  const Tensor factor =
      adaptive != nullptr ? factor_of(*adaptive, settings, r) : weight.to(at::kDouble);
  out.total = policy_loss(out, r, settings, factor);
  out.policy = out.total.detach();
  out.kl = at::zeros_like(out.policy);
  if (in.v_ref.defined()) {
    const Tensor kl = mean_per_sample((v_theta - wide(in.v_ref)).square()).to(at::kDouble);
    out.total = out.total + settings.kl_weight * kl;
    out.kl = kl.detach();
  }
  return out;
}

template <class Weighting>
NftTerms fused_nft_loss(const NftInputs& in, const NftSettings& settings,
                        const Weighting& weighting) {
  const NftInputs plain = prepared(in);
  const auto per_batch = at::empty({in.v.size(0)}, at::kDouble);
  NftTerms out{{}, {}, at::zeros_like(per_batch), per_batch, at::empty_like(per_batch)};
  const bool differentiable = at::GradMode::is_enabled() && in.v.requires_grad();
  Tensor gradient = differentiable ? at::empty_like(plain.v) : Tensor();
  dispatch_kernel(plain, settings, weighting, out, gradient);
  out.policy = policy_loss(out, plain.r, settings, factor_of(weighting, settings, plain.r));
  out.total = in.v_ref.defined() ? at::add(out.policy, out.kl, settings.kl_weight) : out.policy;
  if (differentiable) out.total = WithGradient::apply(in.v, out.total, gradient);
  return out;
}

}  // namespace detail

/// The published form, see Nft: one fused operation on the CPU, tensor operations elsewhere.
/// @param in velocities, samples, noise, times and optimality
/// @param settings beta above 0, weight of the KL term
/// @param weighting scale of the loss, least denominator
/// @return losses a sample; `total` carries the gradient by `in.v`
/// @throws Error if shapes or devices do not fit
inline NftTerms adaptive_nft_loss(const NftInputs& in, const NftSettings& settings,
                                  const kernels::AdaptiveWeighting& weighting) {
  detail::expects_nft_inputs(in);
  if (!in.v.is_cpu()) return detail::composed_nft_loss(in, settings, &weighting, {});
  return detail::fused_nft_loss(in, settings, weighting);
}

/// The paper's form under weights of the samples, see PaperNft: fused on the CPU, too.
/// @param in velocities, samples, noise, times and optimality
/// @param settings beta above 0, weight of the KL term
/// @param weight w(t) of each sample, [B]
/// @return losses a sample; `total` carries the gradient by `in.v`
/// @throws Error if shapes or devices do not fit
inline NftTerms weighted_nft_loss(const NftInputs& in, const NftSettings& settings,
                                  const Tensor& weight) {
  detail::expects_nft_inputs(in);
  expects_per_sample(weight, in.v, "weight");
  if (!in.v.is_cpu()) return detail::composed_nft_loss(in, settings, nullptr, weight);
  return detail::fused_nft_loss(in, settings, weight.to(at::kDouble).contiguous());
}

}  // namespace contraflow
