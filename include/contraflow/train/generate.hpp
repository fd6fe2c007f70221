#pragma once

/// @file
/// Clean samples of a role of a policy.

#include <cstdint>
#include <utility>
#include <vector>

#include <contraflow/policy/role.hpp>
#include <contraflow/train/epoch_watch.hpp>
#include <contraflow/train/evaluation_count.hpp>
#include <contraflow/train/rollout.hpp>

namespace contraflow {

/// The shape of a batch of @p count samples.
inline std::vector<std::int64_t> batch_shape(std::int64_t count,
                                             const std::vector<std::int64_t>& sample_shape) {
  std::vector<std::int64_t> shape{count};
  shape.insert(shape.end(), sample_shape.begin(), sample_shape.end());
  return shape;
}

/// Where the samples of a policy live: float32 on the device of its parameters.
template <class P>
at::TensorOptions sample_options(P& policy) {
  return at::device(policy.parameters().front().device()).dtype(at::kFloat);
}

/// Samples by name: what is drawn for one of them does not depend on the others of its batch.
struct NamedSamples {
  Generator stream;                 ///< of the epoch or evaluation they belong to
  Tensor id;                        ///< number of each sample in it, int64 [B]
  std::vector<std::int64_t> shape;  ///< of one sample
};

/// Follows the velocity of a role from noise to clean samples.
/// @param policy answers for the role
/// @param role whose velocity is followed
/// @param solver a Solver or a Sampler
/// @param grid the sigmas to visit
/// @param condition of B rows
/// @param samples which
/// @param evaluations are told of every velocity that is computed
/// @param watch is asked before each
/// @param hook of integrate()
/// @return clean samples [B, ...]
template <class P, class S, class C, class Hook = NoHook>
Tensor generated(P& policy, Role role, const S& solver, const TimeGrid& grid, const C& condition,
                 const NamedSamples& samples, EvaluationCount& evaluations, const EpochWatch& watch,
                 Hook&& hook = {}) {
  Generator of_noise = samples.stream.stream(Purpose::noise).rows(samples.id);
  Generator of_solver = samples.stream.stream(Purpose::solver).rows(samples.id);
  const Tensor noise =
      normal(batch_shape(samples.id.numel(), samples.shape), of_noise, sample_options(policy));
  auto velocity = [&](const Tensor& x, double sigma) {
    watch.check();
    evaluations.forward += x.size(0);
    return policy.velocity(role, x, at::full({x.size(0)}, sigma, x.options()), condition);
  };
  return sampled(solver, velocity, noise, grid, of_solver, std::forward<Hook>(hook));
}

}  // namespace contraflow
