#pragma once

/// @file
/// What a rollout's transitions count for under the policy of today.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include <contraflow/distributed/communicator.hpp>
#include <contraflow/objective/stale_samples.hpp>
#include <contraflow/train/rollout.hpp>

namespace contraflow {

namespace detail {

/// Log-densities and means of recorded transitions, computed once more.
struct FreshDensities {
  Tensor log_prob = {};  ///< [S, N], float32
  Tensor mean = {};      ///< [S, N, ...]; undefined where the record has none
};

/// Log-densities of a record under @p velocity(x, sigma, first), of samples from @p first on.
/// @param most samples of one evaluation
template <bool WithMean, class V>
FreshDensities fresh_densities(const RecordedSteps<WithMean>& record, std::int64_t most,
                               V&& velocity) {
  const at::NoGradGuard no_gradient;
  FreshDensities fresh{at::empty_like(record.log_prob),
                       record.mean.defined() ? at::empty_like(record.mean) : Tensor()};
  const std::int64_t count = record.log_prob.size(1);
  for (std::size_t k = 0; k < record.transitions.size(); ++k) {
    const Transition& transition = record.transitions[k];
    const auto step = std::int64_t(k);
    for (std::int64_t first = 0; first < count; first += most) {
      const std::int64_t size = std::min(most, count - first);
      const auto state = [&](std::int64_t row) {
        return record.states[row].narrow(0, first, size);
      };
      const Tensor x = state(record.before[k]);
      const Tensor mean = transition.mean(x, velocity(x, record.sigma[k], first));
      fresh.log_prob[step]
          .narrow(0, first, size)
          .copy_(transition.log_density(state(record.after[k]), mean));
      if (fresh.mean.defined()) fresh.mean[step].narrow(0, first, size).copy_(mean);
    }
  }
  return fresh;
}

/// The mean of weights over all ranks: collective.
template <class Comm>
Tensor mean_over_ranks(const Tensor& weight, const Comm& communicator) {
  const Tensor all = at::stack({weight.sum(at::kDouble).to(at::kCPU),
                                at::scalar_tensor(double(weight.numel()), at::kDouble)});
  if constexpr (!is_alone<Comm>) communicator.sum({all});
  return (all[0] / all[1].clamp_min(1)).to(weight.device());
}

}  // namespace detail

/// Gives a record its weights, and where the correction is decoupled the densities of today:
/// collective where weights are normalised.
/// @param record of the rollout
/// @param fresh see detail::fresh_densities()
/// @param correction settings
/// @param communicator of the ranks
/// @param statistics are told how far the samples are off
/// @throws Error if a setting is out of range
template <bool WithMean, class Comm>
void correct(RecordedSteps<WithMean>& record, detail::FreshDensities fresh,
             const RolloutCorrection& correction, const Comm& communicator,
             Statistics& statistics) {
  const Tensor log_ratio = stale_log_ratio(fresh.log_prob.t(), record.log_prob.t());
  Tensor weight = kept_steps(log_ratio, correction.rejections);
  statistics.add("stale_k1", divergence_of(log_ratio, Divergence::k1));
  statistics.add("stale_k3", divergence_of(log_ratio, Divergence::k3));
  statistics.add("stale_kept", weight);
  if (correction.decoupled && correction.importance.over != ImportanceOver::none) {
    Tensor importance = importance_weights(log_ratio, correction.importance);
    statistics.add("stale_weight", importance);
    if (correction.importance.normalise) {
      importance = importance / detail::mean_over_ranks(importance, communicator);
    }
    weight = weight * importance;
  }
  record.weight = weight.t().to(at::kFloat).contiguous();
  if (!correction.decoupled) return;
  record.log_prob = std::move(fresh.log_prob);
  if (record.mean.defined()) record.mean = std::move(fresh.mean);
}

}  // namespace contraflow
