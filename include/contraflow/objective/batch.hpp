#pragma once

/// @file
/// What terms are given.

#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include <contraflow/policy/role.hpp>
#include <contraflow/solver/concept.hpp>

namespace contraflow {

/// What the samples of an epoch are worth: all that a term may take from the scores.
/// @par Shape
/// all [N]; groups are numbered, rewards and advantages float64
struct Scores {
  Tensor reward;     ///< combined reward
  Tensor advantage;  ///< as the Advantage gave it
  Tensor group;      ///< int64, which samples were drawn for one prompt together
};

/// Velocities of the roles that an objective needs; asking for another does not compile.
template <class RoleSet>
using Velocities = meta::ValueMap<RoleSet, Tensor>;

/// Samples noised afresh, for terms on the forward process.
/// @par Shape
/// x0, eps, x_t and each velocity [B, ...]; t [B]
template <class RoleSet>
struct ForwardBatch {
  Tensor x0;                            ///< clean samples, float32
  Tensor eps;                           ///< noise, float32
  Tensor t;                             ///< times, float32
  Tensor x_t;                           ///< `(1 - t) x0 + t eps`
  Velocities<RoleSet> velocities = {};  ///< of the roles that are needed
};

/// Transitions of several steps as rows: the numbers of Transition, one each a sample.
/// @par Shape
/// all float32 [B]
struct TransitionRows {
  Tensor on_x;                ///< see Transition::on_x
  Tensor on_v;                ///< see Transition::on_v
  Tensor std;                 ///< see Transition::std
  Tensor log_density_scale;   ///< see Transition::log_density_scale
  Tensor log_density_offset;  ///< see Transition::log_density_offset

  /// The rows @p index (int64 [B]) of the table of transitions @p steps, on the index's device.
  static TransitionRows of(const std::vector<Transition>& steps, const Tensor& index) {
    const auto column = [&](double Transition::*member) {
      std::vector<double> values;
      for (const Transition& step : steps) values.push_back(step.*member);
      return at::tensor(values, at::kDouble)
          .to(at::kFloat)
          .to(index.device())
          .index_select(0, index);
    };
    return {column(&Transition::on_x), column(&Transition::on_v), column(&Transition::std),
            column(&Transition::log_density_scale), column(&Transition::log_density_offset)};
  }

  /// Mean of the next state [B, ...].
  Tensor mean(const Tensor& x, const Tensor& v) const {
    return wide(x) * per_sample(on_x, x) + wide(v) * per_sample(on_v, v);
  }
  /// Log-density of @p next, a mean over all but the batch: [B].
  Tensor log_density(const Tensor& next, const Tensor& mean) const {
    return mean_per_sample((wide(next) - mean).square()) * log_density_scale + log_density_offset;
  }
};

/// Recorded transitions, for terms on the steps of a stochastic solver.
/// @par Shape
/// x, next and each velocity [B, ...]; old_log_prob [B]; old_mean [B, ...] or undefined
template <class RoleSet>
struct TransitionBatch {
  Tensor x;                   ///< state before the step, float32
  Tensor next;                ///< state behind it, float32
  Tensor old_log_prob;        ///< log-density under the collecting policy, float32
  Tensor old_mean;            ///< mean under the collecting policy, where a term records it
  TransitionRows transition;  ///< of each sample's step
  Velocities<RoleSet> velocities = {};  ///< of the roles that are needed
};

/// The velocity of a role in a batch.
template <Role R, class Batch>
const Tensor& velocity(const Batch& batch) {
  return batch.velocities.template get<R>();
}

/// Where a term looks at velocities: samples noised afresh.
struct ForwardProcess {
  /// What its terms are given.
  template <class RoleSet>
  using Batch = ForwardBatch<RoleSet>;
};
/// Where a term looks at velocities: the recorded steps of the rollout.
struct RecordedTransitions {
  /// What its terms are given.
  template <class RoleSet>
  using Batch = TransitionBatch<RoleSet>;
};

/// Means of quantities worth a look, gathered while losses are computed.
class Statistics {
 public:
  /// Adds the values of one batch to the mean called @p name.
  void add(std::string_view name, const Tensor& values) {
    const Tensor detached = values.detach();
    Entry& entry = entry_of(name);
    entry.sum += detached.sum(at::kDouble).item<double>();
    entry.count += detached.numel();
  }

  /// Calls @p body(name, mean) in the order of first use.
  template <class Body>
  void for_each(Body&& body) const {
    for (const Entry& entry : entries_) {
      if (entry.count > 0) body(entry.name, entry.sum / static_cast<double>(entry.count));
    }
  }

 private:
  struct Entry {
    std::string_view name;
    double sum = 0;
    std::int64_t count = 0;
  };
  Entry& entry_of(std::string_view name) {
    for (Entry& entry : entries_) {
      if (entry.name == name) return entry;
    }
    return entries_.emplace_back(Entry{name});
  }
  std::vector<Entry> entries_;
};

}  // namespace contraflow
