#pragma once

/// @file
/// What terms are given.

#include <algorithm>
#include <cstddef>
#include <functional>
#include <limits>
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
  bool reports_times = false;  ///< see ForwardProcess::report_times

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
            unit_size,
            reports_times};
  }
};

/// Transitions of several steps as rows: the numbers of Transition, one each a sample.
/// @par Shape
/// all float32 [B], but for step
struct TransitionRows {
  Tensor on_x;                ///< see Transition::on_x
  Tensor on_v;                ///< see Transition::on_v
  Tensor std;                 ///< see Transition::std
  Tensor log_density_scale;   ///< see Transition::log_density_scale
  Tensor log_density_offset;  ///< see Transition::log_density_offset
  Tensor dt = {};             ///< length of the step, below 0; undefined where it is not recorded
  double mean_std = 0;        ///< mean of std over all recorded steps
  Tensor step = {};           ///< which of the recorded steps, int64; undefined: nobody asks
  std::int64_t steps = 0;     ///< number of recorded steps, where step is defined

  /// A row for each of @p steps, on @p device.
  static TransitionRows of(const std::vector<Transition>& steps, const at::Device& device) {
    const auto column = [&](double Transition::*member) {
      std::vector<double> values;
      for (const Transition& each : steps) values.push_back(each.*member);
      return on_device(at::tensor(values, at::kDouble), device, at::kFloat);
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
            mean_std,
            detail::rows_of(step, index),
            steps};
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
  /// By which a policy gradient multiplies its loss, [B], see RolloutCorrection; undefined: 1.
  Tensor weight = {};

  /// The losses of a policy gradient [B], weighted.
  Tensor weighted(const Tensor& loss) const { return weight.defined() ? weight * loss : loss; }
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
            detail::narrowed<Narrow, RoleSet>(velocities, rows),
            detail::rows_of(weight, rows)};
  }
};

/// What the gradient of a reward goes through, from a sample to the weights.
template <class C = Unconditional>
struct PathFunctions {
  /// `velocity(x, sigma, condition, recomputes)`: v_theta [B, ...] of states x [B, ...], in
  /// autograd; where it recomputes, its activations are not kept but computed again in the backward
  /// pass.
  std::function<Tensor(const Tensor&, double, const C&, bool)> velocity = {};
  /// `reward(x0, prompt)`: of samples [B, ...] of prompts int64 [B], in autograd, [B].
  std::function<Tensor(const Tensor&, const Tensor&)> reward = {};
};

/// States of the paths that made the samples, for terms on the gradient of the reward.
/// @par Shape
/// states [M, B, ...]; prompt and id int64 [B] on the CPU; the condition of B rows
template <class RoleSet, class C = Unconditional>
struct PathBatch {
  Tensor states;                        ///< at the steps that the term asked for, float32
  std::vector<std::size_t> steps;       ///< their numbers in the grid, M of them
  TimeGrid grid;                        ///< of the path
  Tensor prompt;                        ///< of each sample
  Tensor id;                            ///< of each sample, by which it has its random numbers
  C condition = {};                     ///< under which velocities are computed
  Velocities<RoleSet> velocities = {};  ///< none: a term computes its own, see velocity()
  Generator stream = seeded(0);         ///< of the samples' random numbers, see draws()
  PathFunctions<C> functions = {};      ///< see velocity() and reward()

  /// Of all its tensors.
  at::Device device() const { return states.device(); }
  /// `velocity(x, sigma)`: v_theta of states [B, ...], in autograd.
  /// @param recomputes activations are computed again instead of kept
  auto velocity(bool recomputes = false) const {
    return [this, recomputes](const Tensor& x, double sigma) {
      return functions.velocity(x, sigma, condition, recomputes);
    };
  }
  /// The rewards of samples [k B, ...], k versions of each one behind the other, in autograd: their
  /// losses are [k B].
  Tensor reward(const Tensor& x0) const {
    return functions.reward(x0, prompt.repeat({x0.size(0) / prompt.numel()}));
  }
  /// Random numbers, a row each sample.
  Generator draws() const { return stream.rows(id); }
  /// The grid from the first of the recorded steps on.
  TimeGrid rest() const {
    const auto& sigmas = grid.sigmas();
    return TimeGrid({sigmas.begin() + std::ptrdiff_t(steps.front()), sigmas.end()});
  }
  /// The same for fewer roles and, where @p rows (int64 [K]) is defined, fewer samples.
  template <class Narrow>
  PathBatch<Narrow, C> narrowed(const Tensor& rows) const {
    const Tensor here = rows.defined() ? rows.to(at::kCPU) : rows;
    return {rows.defined() ? states.index_select(1, rows) : states,
            steps,
            grid,
            detail::rows_of(prompt, here),
            detail::rows_of(id, here),
            detail::condition_rows(condition, rows),
            {},
            stream,
            functions};
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

/// Means and extremes of quantities worth a look, gathered where they are computed while losses
/// are.
///
/// They stay on the device of the values until for_each() reads them, all at once.
class Statistics {
 public:
  /// Adds the values of one batch to the mean called @p name.
  void add(std::string_view name, const Tensor& values) {
    Entry& entry = entry_of(name, 0);
    accumulate(entry, values.detach().sum(at::kDouble));
    entry.count += values.numel();
  }
  /// Adds the values of one batch to means of their own for each step, called @p name/0, @p name/1
  /// and so on; a step without any has none.
  /// @param name of the quantity
  /// @param values [B]
  /// @param step of each, int64 [B]
  /// @param steps how many there are, at least 1
  void add_by_step(std::string_view name, const Tensor& values, const Tensor& step,
                   std::int64_t steps) {
    const Tensor own = values.detach().to(at::kDouble), none = at::zeros({steps}, own.options());
    accumulate(entry_of(name, steps), none.index_add(0, step, own));
    accumulate_number(entry_of(name, steps), step);
  }
  /// Adds the values of one batch to the least and the greatest of each step, called
  /// @p name_least/0, @p name_greatest/0 and so on; a step without any has none.
  /// @param name of the quantity
  /// @param values [B], none NaN
  /// @param step of each, int64 [B]
  /// @param steps how many there are, at least 1
  void add_extremes_by_step(std::string_view name, const Tensor& values, const Tensor& step,
                            std::int64_t steps) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    for (const auto& [end, kind] :
         {std::pair("_least", Kind::least), std::pair("_greatest", Kind::greatest)}) {
      const double sign = kind == Kind::greatest ? -1 : 1;
      const Tensor own = values.detach().to(at::kDouble) * sign;
      Entry& entry = entry_of(std::string(name) + end, steps, kind);
      accumulate(entry, at::full({steps}, infinity, own.options())
                            .scatter_reduce(0, step, own, "amin", /*include_self=*/true));
      accumulate_number(entry, step);
    }
  }

  /// Adds up over the ranks: collective.
  template <class Comm>
  void add_up(const Comm& communicator) {
    if constexpr (!is_alone<Comm>) {
      std::vector<std::string> lines;
      for (const Entry& entry : entries_) lines.push_back(entry.text());
      for (const std::string& line : gathered_lines(communicator, lines)) know(line);
      // Of one order on all ranks.
      std::sort(entries_.begin(), entries_.end(),
                [](const Entry& a, const Entry& b) { return a.name < b.name; });
      if (entries_.empty()) return;
      const Tensor of_ranks = communicator.gather(numbers().unsqueeze(0));
      std::int64_t place = 0;
      for (Entry& entry : entries_) {
        const Tensor own = of_ranks.narrow(1, place, entry.width());
        entry.value = entry.kind == Kind::mean ? own.sum(0) : own.amin(0);
        entry.number = of_ranks.narrow(1, place + entry.width(), entry.width()).sum(0);
        place += 2 * entry.width();
      }
    }
  }

  /// Calls @p body(name, value) in the order of first use.
  template <class Body>
  void for_each(Body&& body) const {
    if (entries_.empty()) return;
    const Tensor read = numbers();
    const auto* value = static_cast<const double*>(read.const_data_ptr());
    for (const Entry& entry : entries_) {
      for (std::int64_t k = 0; k < entry.width(); ++k) {
        const double number = value[entry.width() + k];
        if (number == 0) continue;
        const double told = entry.kind == Kind::mean    ? value[k] / number
                            : entry.kind == Kind::least ? value[k]
                                                        : -value[k];
        if (entry.steps == 0) {
          body(std::string_view(entry.name), told);
        } else {
          const std::string name = entry.name + "/" + std::to_string(k);
          body(std::string_view(name), told);
        }
      }
      value += 2 * entry.width();
    }
  }

 private:
  enum class Kind { mean, least, greatest };
  struct Entry {
    std::string name;
    std::int64_t steps = 0;  ///< 0: one for all
    Kind kind = Kind::mean;
    /// float64, [steps] or without dimensions: the sum, the least, or the least of the negatives.
    Tensor value = {};
    Tensor number = {};  ///< of the values in each, where it is not known as `count`
    std::int64_t count = 0;

    std::int64_t width() const { return std::max<std::int64_t>(steps, 1); }
    Tensor nothing() const {
      const double none = kind == Kind::mean ? 0 : std::numeric_limits<double>::infinity();
      return at::full({width()}, none, at::kDouble);
    }
    std::string text() const { return shown(steps) + " " + shown(int(kind)) + " " + name; }
  };

  static void accumulate(Entry& entry, const Tensor& more) {
    if (!entry.value.defined()) {
      entry.value = more;
    } else {
      entry.value = entry.kind == Kind::mean ? entry.value + more : at::minimum(entry.value, more);
    }
  }
  static void accumulate_number(Entry& entry, const Tensor& step) {
    const auto options = entry.value.options();
    const Tensor more =
        at::zeros({entry.steps}, options).index_add(0, step, at::ones(step.sizes(), options));
    entry.number = entry.number.defined() ? entry.number + more : more;
  }
  Entry& entry_of(std::string_view name, std::int64_t steps, Kind kind = Kind::mean) {
    for (Entry& entry : entries_) {
      if (entry.name == name && entry.steps == steps) return entry;
    }
    return entries_.emplace_back(Entry{std::string(name), steps, kind});
  }
  /// Has an entry of the text of one.
  void know(const std::string& text) {
    const std::size_t kind = text.find(' ') + 1, name = text.find(' ', kind) + 1;
    entry_of(text.substr(name), std::stoll(text), Kind(std::stoi(text.substr(kind))));
  }

  /// Sums and numbers of all entries one behind the other, float64 on the CPU.
  Tensor numbers() const {
    std::vector<Tensor> sums, all;
    for (const Entry& entry : entries_) {
      if (entry.value.defined()) sums.push_back(entry.value.reshape({-1}));
      if (entry.value.defined() && entry.number.defined())
        sums.push_back(entry.number.reshape({-1}));
    }
    const Tensor read = sums.empty() ? Tensor() : at::cat(sums).to(at::kCPU);  // once
    std::int64_t place = 0;
    const auto next = [&](std::int64_t width) {
      place += width;
      return read.narrow(0, place - width, width);
    };
    for (const Entry& entry : entries_) {
      const bool has_values = entry.value.defined();
      all.push_back(has_values ? next(entry.width()) : entry.nothing());
      all.push_back(has_values && entry.number.defined()
                        ? next(entry.width())
                        : at::full({entry.width()}, double(entry.count), at::kDouble));
    }
    return at::cat(all);
  }

  std::vector<Entry> entries_;
};

}  // namespace contraflow
