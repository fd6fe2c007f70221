#pragma once

/// @file
/// What terms are given.

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <contraflow/core/condition.hpp>
#include <contraflow/distributed/text.hpp>
#include <contraflow/policy/role.hpp>
#include <contraflow/solver/concept.hpp>

namespace contraflow {

/// What the samples of an epoch are worth: all that a term may take from the scores.
/// @par Shape
/// all [N], on the CPU; groups are numbered, rewards and advantages float64
struct Scores {
  Tensor reward;     ///< combined reward
  Tensor advantage;  ///< as the Advantage gave it
  Tensor group;      ///< int64, which samples were drawn for one prompt together
};

/// Velocities of the roles that an objective needs; asking for another does not compile.
template <class RoleSet>
using Velocities = meta::ValueMap<RoleSet, Tensor>;

namespace detail {

/// The velocities of the roles @p Narrow out of those of more; the rows @p rows, or all where it is
/// undefined.
template <class Narrow, class Wide>
Velocities<Narrow> narrowed(const Velocities<Wide>& velocities, const Tensor& rows) {
  Velocities<Narrow> result;
  Narrow::for_each([&](auto role) {
    const Tensor& v = velocities.template get<decltype(role)::value>();
    result.template get<decltype(role)::value>() = rows.defined() ? v.index_select(0, rows) : v;
  });
  return result;
}

inline Tensor rows_of(const Tensor& x, const Tensor& rows) {
  return rows.defined() && x.defined() ? x.index_select(0, rows) : x;
}
template <class C>
C condition_rows(const C& condition, const Tensor& rows) {
  return rows.defined() ? select(condition, rows) : condition;
}

}  // namespace detail

/// Samples noised afresh, for terms on the forward process.
/// @par Shape
/// x0, eps, x_t and each velocity [B, ...]; t [B]; the condition of B rows
template <class RoleSet, class C = Unconditional>
struct ForwardBatch {
  Tensor x0;                            ///< clean samples, float32
  Tensor eps;                           ///< noise, float32
  Tensor t;                             ///< times, float32
  Tensor x_t;                           ///< `(1 - t) x0 + t eps`
  C condition = {};                     ///< under which the velocities were computed
  Velocities<RoleSet> velocities = {};  ///< of the roles that are needed
  /// How many rows side by side are compared, under one noise and time: 2 for a term that compares
  /// pairs, the size of a group for one that compares groups, else 1.
  std::int64_t unit_size = 1;

  /// Of all its tensors.
  at::Device device() const { return x0.device(); }
  /// The same for fewer roles and, where @p rows (int64 [K]) is defined, fewer samples.
  template <class Narrow>
  ForwardBatch<Narrow, C> narrowed(const Tensor& rows) const {
    return {detail::rows_of(x0, rows),
            detail::rows_of(eps, rows),
            detail::rows_of(t, rows),
            detail::rows_of(x_t, rows),
            detail::condition_rows(condition, rows),
            detail::narrowed<Narrow, RoleSet>(velocities, rows),
            unit_size};
  }
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
  Tensor dt = {};             ///< length of the step, below 0; undefined where it is not recorded
  double mean_std = 0;        ///< mean of std over all recorded steps

  /// A row for each of @p steps, on @p device.
  static TransitionRows of(const std::vector<Transition>& steps, const at::Device& device) {
    const auto column = [&](double Transition::*member) {
      std::vector<double> values;
      for (const Transition& step : steps) values.push_back(step.*member);
      return at::tensor(values, at::kDouble).to(device, at::kFloat);
    };
    TransitionRows rows{column(&Transition::on_x), column(&Transition::on_v),
                        column(&Transition::std), column(&Transition::log_density_scale),
                        column(&Transition::log_density_offset)};
    for (const Transition& step : steps) rows.mean_std += step.std / double(steps.size());
    return rows;
  }
  /// The rows @p index (int64 [B]) of the table of transitions @p steps, on the index's device.
  static TransitionRows of(const std::vector<Transition>& steps, const Tensor& index) {
    return of(steps, index.device()).select(index);
  }

  /// The rows @p index, int64 [K]; all where it is undefined.
  TransitionRows select(const Tensor& index) const {
    return {detail::rows_of(on_x, index),
            detail::rows_of(on_v, index),
            detail::rows_of(std, index),
            detail::rows_of(log_density_scale, index),
            detail::rows_of(log_density_offset, index),
            detail::rows_of(dt, index),
            mean_std};
  }

  /// The lengths of the steps, dt.
  /// @throws Error where they are not recorded
  const Tensor& lengths() const {
    if (dt.defined()) return dt;
    throw Error("dt", "the length of each recorded step (RecordedSteps::dt)", "none");
  }
  /// The level term of each step, `s = std / sqrt(-dt)`: std without its dependence on the length.
  /// @throws Error where lengths are not recorded
  Tensor levels() const { return std / (-lengths()).sqrt(); }

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
/// x, next and each velocity [B, ...]; old_log_prob [B]; old_mean [B, ...] or undefined; the
/// condition of B rows
template <class RoleSet, class C = Unconditional>
struct TransitionBatch {
  Tensor x;                   ///< state before the step, float32
  Tensor next;                ///< state behind it, float32
  Tensor old_log_prob;        ///< log-density under the collecting policy, float32
  Tensor old_mean;            ///< mean under the collecting policy, where a term records it
  TransitionRows transition;  ///< of each sample's step
  C condition = {};           ///< under which the velocities were computed
  Velocities<RoleSet> velocities = {};  ///< of the roles that are needed

  /// Of all its tensors.
  at::Device device() const { return x.device(); }
  /// The same for fewer roles and, where @p rows (int64 [K]) is defined, fewer samples.
  template <class Narrow>
  TransitionBatch<Narrow, C> narrowed(const Tensor& rows) const {
    return {detail::rows_of(x, rows),
            detail::rows_of(next, rows),
            detail::rows_of(old_log_prob, rows),
            detail::rows_of(old_mean, rows),
            transition.select(rows),
            detail::condition_rows(condition, rows),
            detail::narrowed<Narrow, RoleSet>(velocities, rows)};
  }
};

/// The velocity of a role in a batch. A term is given no more than it declares.
template <Role R, class Batch>
const Tensor& velocity(const Batch& batch) {
  constexpr bool declared = decltype(batch.velocities)::template contains<R>;
  static_assert(declared,
                "contraflow: this term uses the velocity of a role that it did not declare: add "
                "the role to the term's `using Velocities = contraflow::Roles<...>`");
  if constexpr (declared) {
    return batch.velocities.template get<R>();
  } else {
    static const Tensor none;  // so that there is one error, not two
    return none;
  }
}

/// Which of the units of a batch each row belongs to, int64 [B] from 0.
template <class Batch>
Tensor unit_of_rows(const Batch& batch) {
  return at::arange(batch.x0.size(0), batch.x0.options().dtype(at::kLong))
      .div(batch.unit_size, "floor");
}

/// Means of quantities worth a look, gathered where they are computed while losses are.
///
/// Sums stay on the device of the values until for_each() reads them, all at once.
class Statistics {
 public:
  /// Adds the values of one batch to the mean called @p name.
  void add(std::string_view name, const Tensor& values) {
    const Tensor sum = values.detach().sum(at::kDouble);
    Entry& entry = entry_of(name);
    entry.sum = entry.sum.defined() ? entry.sum + sum : sum;
    entry.count += values.numel();
  }

  /// Adds up over the ranks: collective.
  template <class Comm>
  void add_up(const Comm& communicator) {
    if constexpr (!is_alone<Comm>) {
      std::vector<std::string> names;
      for (const Entry& entry : entries_) names.push_back(entry.name);
      for (const std::string& name : gathered_lines(communicator, names)) entry_of(name);
      for (Entry& entry : entries_) {
        if (!entry.sum.defined()) entry.sum = at::zeros({}, at::kDouble);
      }
      // Of one order on all ranks.
      std::sort(entries_.begin(), entries_.end(),
                [](const Entry& a, const Entry& b) { return a.name < b.name; });
      std::vector<Tensor> numbers;
      for (const Entry& entry : entries_) {
        numbers.push_back(entry.sum.to(at::kCPU));
        numbers.push_back(at::full({}, double(entry.count), at::kDouble));
      }
      if (numbers.empty()) return;
      const Tensor all = at::stack(numbers);
      communicator.sum({all});
      for (std::size_t i = 0; i < entries_.size(); ++i) {
        entries_[i].sum = all[std::int64_t(2 * i)];
        entries_[i].count = std::llround(all[std::int64_t(2 * i + 1)].item<double>());
      }
    }
  }

  /// Calls @p body(name, mean) in the order of first use.
  template <class Body>
  void for_each(Body&& body) const {
    std::vector<Tensor> sums;
    for (const Entry& entry : entries_) sums.push_back(entry.sum);
    if (sums.empty()) return;
    const Tensor read = at::stack(sums).to(at::kCPU);
    const auto* sum = static_cast<const double*>(read.const_data_ptr());
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      if (entries_[i].count == 0) continue;
      body(entries_[i].name, sum[i] / static_cast<double>(entries_[i].count));
    }
  }

 private:
  struct Entry {
    std::string name;
    Tensor sum;  ///< float64, without dimensions
    std::int64_t count = 0;
  };
  Entry& entry_of(std::string_view name) {
    for (Entry& entry : entries_) {
      if (entry.name == name) return entry;
    }
    return entries_.emplace_back(Entry{std::string(name), {}, 0});
  }
  std::vector<Entry> entries_;
};

}  // namespace contraflow
